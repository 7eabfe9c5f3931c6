"""Sockets, bytes in and out, and the process that a server was started by."""
