"""Sends and receives messages over a connection, each behind its length.

A message that belongs to a text's next token is looked for at its usual time, see
``ExpectedMessage``. The caller knows what messages mean.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from edgellama.cluster.connections.expected_message import READ_BYTES, ExpectedMessage

HUNG_UP = "the stage has hung up"
_LENGTH = struct.Struct("<Q")


def fail() -> None:
    """What becomes of silence where nobody says otherwise."""
    raise TimeoutError("no answer in time")


def send(connection: socket.socket, data: bytes, on_silence: Callable[[], None] = fail) -> None:
    """Send a message; ``on_silence`` is called when none of it was taken for a time."""
    left = memoryview(_LENGTH.pack(len(data)) + data)
    while left:
        try:
            left = left[connection.send(left) :]
        except TimeoutError:
            on_silence()


class Inbox:
    """The messages that come over a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def message(self, on_silence: Callable[[], None] = fail) -> memoryview:
        """The bytes of the next one; EOFError if the other end has hung up before.

        ``on_silence`` is called when nothing has come for a time.
        """
        data, size = self._rest or self._read(on_silence), _LENGTH.size
        while len(data) < size:
            data += self._read(on_silence)
        end = size + _LENGTH.unpack_from(data)[0]
        found = memoryview(data)[size:end]
        self._rest = data[end:]
        if len(found) < end - size:
            whole = bytearray(end - size)
            whole[: len(found)] = found
            received(self._connection, memoryview(whole)[len(found) :], on_silence)
            return memoryview(whole)
        return found

    def expected_message(
        self,
        expected: ExpectedMessage,
        meanwhile: Callable[[], None],
        on_silence: Callable[[], None] = fail,
    ) -> memoryview:
        """The same of one that should come at its usual time; ``meanwhile`` may be called."""
        if self._rest:
            return self.message(on_silence)
        self._rest = expected.read(self._connection, meanwhile)
        found = self.message(on_silence)
        expected.note()
        return found

    def _read(self, on_silence: Callable[[], None]) -> bytes:
        while True:
            try:
                data = self._connection.recv(READ_BYTES)
            except TimeoutError:
                on_silence()
                continue
            if not data:
                raise EOFError(HUNG_UP)
            return data


def received(
    connection: socket.socket,
    data: bytearray | memoryview,
    on_silence: Callable[[], None] = fail,
) -> bytearray | memoryview:
    """``data`` with the bytes that come; EOFError if the other end hangs up before it is full.

    ``on_silence`` is called when nothing has come for a time.
    """
    left = memoryview(data)
    while left:
        try:
            count = connection.recv_into(left)
        except TimeoutError:
            on_silence()
            continue
        if not count:
            raise EOFError(HUNG_UP)
        left = left[count:]
    return data
