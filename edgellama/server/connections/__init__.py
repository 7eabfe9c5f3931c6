"""Sockets, bytes in and out, and the process that a server was started by.

``wire`` reads bodies and writes answers, ``connections`` and ``short_way`` are uvicorn's
connections with what texts need besides.
"""
