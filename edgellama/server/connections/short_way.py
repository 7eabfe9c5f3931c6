"""The short way of a stream's pieces: from the thread that makes them straight to the socket.

Through the event loop, a piece takes several times as long, on the very cores that compute the next
token. The loop writes everything else, and what a slow client does not take at once.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

SHORT_WAY = "edgellama.short_way"
"""The extension of a request's scope that holds its ``ShortWay``, where there is one."""


class ShortWay:
    """A response's body in chunks, behind its head. All but ``send`` is for the event loop.

    Either the loop or a thread writes, never both; the caller decides which.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._socket: socket.socket | None = None
        self.last_sent = 0.0

    def is_free(self) -> bool:
        """Whether a thread may write now: all that the loop wrote has gone out."""
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            return False
        if self._socket is None:
            # The socket is duplicated: once the transport closes its own, another client may get
            # that number.
            self._socket = self._transport.get_extra_info("socket").dup()
        return True

    def send(self, piece: bytes) -> bytes:
        """Write a piece; what is left for ``write_rest``, where the client is slow."""
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
        self.last_sent = time.monotonic()
        assert self._socket is not None
        try:
            return chunk[self._socket.send(chunk) :]
        except BlockingIOError:
            return chunk
        except OSError:
            return b""  # The client has left; the loop is told so, too.

    def write_rest(self, rest: bytes) -> None:
        """Write what ``send`` left."""
        self._transport.write(rest)

    def close(self) -> None:
        """Let go of the socket; no thread may write any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def short_way(scope: Mapping[str, Any]) -> ShortWay | None:
    """The short way of a request, if its server and this system have one."""
    way: ShortWay | None = (scope.get("extensions") or {}).get(SHORT_WAY)
    # On Windows the event loop writes by overlapped calls, beside which no other may write.
    return None if sys.platform == "win32" else way
