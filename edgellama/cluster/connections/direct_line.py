"""A connection between a driver and one stage. A call over it costs a quarter of an actor's call.

Calls are pickles, so whoever has the token can run code on the stage's machine, as with Ray itself.
The caller brings the token to the driver.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from edgellama.cluster.connections.expected_message import ExpectedMessage
from edgellama.cluster.connections.messages import Inbox, received, send
from edgellama.cluster.connections.progress_watch import STUCK_S, ProgressWatch
from edgellama.cluster.connections.wire import Packer, Unpacker
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage_call import StageSilentError
from edgellama.cluster.stages.stage_hooks import AnswerHook, HookCall

TOKEN_BYTES = 32
HELLO_S = 10.0
"""How long a connection may take to show its token."""
PULSE = None
"""The message that asks whether a stage is still there; it says how far its work has come."""
SILENCE_S = 5.0
"""After so long without a byte of an answer, a stage is asked whether it is still there."""
PULSE_S = 10.0
"""How long it may take to say so; one that computes says it at once."""
VANISHED = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 30_000,
}
"""After half a minute a connection of which the other end knows nothing counts as broken."""
Respond = Callable[[Any, AnswerHook], object]


@dataclass(frozen=True)
class LineAddress:
    """Where a stage listens, and what it wants to see first."""

    host: str
    port: int
    token: bytes = field(repr=False)


class LineServer:
    """Answers calls at the stage; each connection has a thread, which ends with it."""

    def __init__(
        self,
        host: str,
        respond: Respond,
        progress: Callable[[], object] = lambda: None,
        rehearse: Callable[[NextToken], None] = lambda given: None,
    ) -> None:
        """Listen on a free port of ``host``; OSError if that cannot be.

        ``respond`` gives the answer of a message, which is anything but None; it may ask back for
        hooks meanwhile. ``progress`` says how far it has come, see ``ProgressWatch``; ``rehearse``
        is called shortly before a text's next token is expected.
        """
        self._respond, self._progress, self._rehearse = respond, progress, rehearse
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
            token = received(connection, bytearray(TOKEN_BYTES))
            if not hmac.compare_digest(token, self.address.token):
                return
            connection.settimeout(None)
            _set_up(connection)
            packer, unpacker, inbox = Packer(), Unpacker(), Inbox(connection)

            def ask_back(call: HookCall) -> Any:
                send(connection, packer.pack(call))
                return unpacker.unpack(inbox.message())

            expected = ExpectedMessage()
            message: object = None

            def rehearse() -> None:
                assert isinstance(message, NextToken)
                found = unpacker.unpack(packer.pack(message.followed()))
                self._rehearse(cast(NextToken, found))

            while True:
                if isinstance(message, NextToken):
                    message = unpacker.unpack(inbox.expected_message(expected, rehearse))
                else:
                    message = unpacker.unpack(inbox.message())
                try:
                    answer = (
                        self._progress() if message is PULSE else self._respond(message, ask_back)
                    )
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
                send(connection, packer.pack(answer))


class Line:
    """The driver's end. Any error, or interruption, leaves it closed: it would be out of step.

    A stage may compute for as long as it likes. One that is silent for ``silence_s`` is asked over
    another connection whether it is still there; without an answer it counts as lost, and so does
    one that has not come any further for ``stuck_s``.
    """

    def __init__(
        self,
        address: LineAddress,
        timeout_s: float,
        *,
        silence_s: float = SILENCE_S,
        pulse_s: float = PULSE_S,
        stuck_s: float = STUCK_S,
    ) -> None:
        """Connect; OSError if that cannot be done in time."""
        self._address = address
        self._silence_s, self._pulse_s = silence_s, pulse_s
        self._watch = ProgressWatch(stuck_s)
        self._connection = socket.create_connection((address.host, address.port), timeout_s)
        self._connection.settimeout(silence_s)
        _set_up(self._connection)
        self._connection.sendall(address.token)
        self._packer, self._unpacker = Packer(), Unpacker()
        self._inbox = Inbox(self._connection)
        self._expected = ExpectedMessage()
        self.is_closed = False
        self.driver: AnswerHook | None = None

    def ask(self, message: object, meanwhile: Callable[[], None] | None = None) -> Any:
        """The answer of a stage; OSError or EOFError if it is lost.

        ``driver`` answers what the stage asks for hooks, and its errors are raised. ``meanwhile``:
        of a text's next token, whose time is known by those before; called shortly before.
        """
        self._watch.begin()
        try:
            send(self._connection, self._packer.pack(message), self._check_pulse)
            answer = self._answer(meanwhile)
            while isinstance(answer, HookCall):
                rows = _nobody(answer) if self.driver is None else self.driver(answer)
                self._watch.begin()
                send(self._connection, self._packer.pack(rows), self._check_pulse)
                answer = self._answer()
        except BaseException:
            self.close()
            raise
        if isinstance(answer, str):
            raise ConnectionError(answer)
        return answer

    def close(self) -> None:
        """Hang up."""
        self.is_closed = True
        self._connection.close()

    def _answer(self, meanwhile: Callable[[], None] | None = None) -> Any:
        inbox = self._inbox
        if meanwhile is None:
            return self._unpacker.unpack(inbox.message(self._check_pulse))
        data = inbox.expected_message(self._expected, meanwhile, self._check_pulse)
        return self._unpacker.unpack(data)

    def _check_pulse(self) -> None:
        """StageSilentError unless the stage says that it is still there and gets on."""
        limit_s = self._pulse_s
        try:
            with socket.create_connection(
                (self._address.host, self._address.port), limit_s
            ) as other:
                other.sendall(self._address.token)
                send(other, Packer().pack(PULSE))
                progress = Unpacker().unpack(Inbox(other).message())
        except TimeoutError:
            raise StageSilentError(
                f"it has not said for {self._silence_s + limit_s:g} s that it is still there"
            ) from None
        self._watch.note(progress)


def _nobody(call: HookCall) -> NoReturn:
    raise ConnectionError(f"the stage asks for hook {call.number}, which nobody has set here")


def _set_up(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in VANISHED.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
