"""The protocol of llama.cpp's own server: texts, gaps in code, tokens, and the server's state.

Each module has the endpoints of its subject.
"""
