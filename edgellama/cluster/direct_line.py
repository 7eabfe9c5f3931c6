"""A connection between a driver and one stage, over which calls cost a quarter of an actor's.

Who has the token may send calls, which are pickles: whoever reaches a stage with it can run code
there, as whoever reaches Ray can. How the token gets to the driver is not known here.
"""

from __future__ import annotations

import contextlib
import hmac
import pickle
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from edgellama.cluster.stage_call import Answer, StageCall

TOKEN_BYTES = 32
HELLO_S = 10.0
"""How long a connection may take to show its token."""
SILENCE_S = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""After so long a machine that has vanished counts as lost, which no packet tells."""
_LENGTH = struct.Struct("<Q")
Run = Callable[[list[StageCall]], list[Answer]]


@dataclass(frozen=True)
class LineAddress:
    """Where a stage listens, and what it wants to see first."""

    host: str
    port: int
    token: bytes = field(repr=False)


class LineServer:
    """Answers calls at the stage; each connection has a thread, which ends with it."""

    def __init__(self, host: str, run: Run) -> None:
        """Listen on a free port of ``host``; OSError where that cannot be."""
        self._run = run
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        port = self._listener.getsockname()[1]
        self.address = LineAddress(host, port, secrets.token_bytes(TOKEN_BYTES))
        threading.Thread(target=self._accept, name="edgellama-line", daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # It was closed.
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection:
            connection.settimeout(HELLO_S)
            stream = connection.makefile("rb")
            if not hmac.compare_digest(stream.read(TOKEN_BYTES), self.address.token):
                return
            connection.settimeout(None)
            _set_up(connection)
            while True:
                calls = pickle.loads(_received(stream))
                try:
                    answer: object = self._run(calls)
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
                _send(connection, answer)


class Line:
    """The driver's end. Any error, or interruption, leaves it closed: it would be out of step."""

    def __init__(self, address: LineAddress, timeout_s: float) -> None:
        """Connect; OSError where that cannot be done in time."""
        self._connection = socket.create_connection((address.host, address.port), timeout_s)
        self._connection.settimeout(None)
        _set_up(self._connection)
        self._stream = self._connection.makefile("rb")
        self._connection.sendall(address.token)
        self.is_closed = False

    def run(self, calls: list[StageCall]) -> list[Answer]:
        """See ``Stage.run``; OSError or EOFError where the stage is lost."""
        try:
            _send(self._connection, calls)
            answer = pickle.loads(_received(self._stream))
        except BaseException:
            self.close()
            raise
        if isinstance(answer, str):
            raise ConnectionError(answer)
        answers: list[Answer] = answer
        return answers

    def close(self) -> None:
        """Hang up."""
        self.is_closed = True
        self._stream.close()
        self._connection.close()


def _set_up(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in SILENCE_S.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _send(connection: socket.socket, value: object) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _received(stream: BinaryIO) -> bytes:
    """The bytes of the next message; EOFError where the other end has hung up."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the stage has hung up")
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the stage has hung up in the middle of an answer")
    return data
