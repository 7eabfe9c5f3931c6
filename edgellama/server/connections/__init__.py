"""Sockets, bytes in and out, and the process that started a server.

``wire`` reads bodies and writes answers. ``connections`` and ``short_way`` extend uvicorn's
connections by what texts need.
"""
