"""The settings that a server is started with: plain values, checked when they are put together.

The command line reads them; each module obeys its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellama.quant.errors import InvalidOptionError

if TYPE_CHECKING:
    from edgellama.llama import Llama

DEFAULT_PORT = 11434
"""Ollama's, where its clients look."""


@dataclass(frozen=True)
class Limits:
    """What one request, or all together, may take.

    ``parallel`` texts are made at once, ``max_waiting`` wait behind them. ``body_bytes`` and
    ``body_seconds`` are of a request's body, ``header_seconds`` of its head. ``max_tokens`` and
    ``max_seconds`` end a text, None does not. ``max_connections`` are open at once.
    """

    parallel: int = 4
    max_waiting: int = 256
    body_bytes: int = 20_000_000
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    max_tokens: int | None = None
    max_seconds: float | None = None
    max_texts: int = 16
    max_connections: int = 1024

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InvalidOptionError(f"{name} is {value}; allowed: at least {lowest}")


_LOWEST: Mapping[str, float] = {
    "parallel": 1,
    "max_waiting": 0,
    "body_bytes": 1000,
    "body_seconds": 0.1,
    "header_seconds": 0.1,
    "max_tokens": 1,
    "max_seconds": 0.1,
    "max_texts": 1,
    "max_connections": 1,
}


@dataclass(frozen=True)
class Opener:
    """How a model is loaded otherwise than from its file, and what it takes of this memory."""

    open: Callable[[], Llama]
    num_bytes: int


@dataclass(frozen=True)
class ServerSettings:
    """All of a server.

    ``host`` "localhost" is both loopback addresses; ``port`` 0 is a free one. ``models`` are
    paths by the names that requests use, the first of them the default; with ``only_given``
    those of the cache are not served beside them. ``aliases`` are further names.
    ``openers``: by name, how some of ``models`` are loaded instead. ``engine`` are
    options of ``Llama``. ``keep_alive_s``: how long a model without work stays loaded; those in
    ``models`` stay unless ``unloads_given``. ``cors`` are origins of web pages that may call,
    ``hosts`` names under which the server may be called beside its address. ``ping_s``: how
    often a silent stream says that it lives. ``drain_s``: how long answers may go on once the
    server is told to end. ``with_page``: browsers get a page. ``allow_manage``: clients may make,
    copy and delete models. ``on_compile`` hears of (compiled, total) kernels, from any thread,
    where a model's must be compiled. ``store`` is the file of kept responses, None the usual one;
    conversations of the page lie beside it.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    models: Mapping[str, Path] = field(default_factory=dict)
    only_given: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    openers: Mapping[str, Opener] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    keep_alive_s: float = 300.0
    unloads_given: bool = False
    api_keys: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    ping_s: float = 5.0
    drain_s: float = 30.0
    log_prompts: bool = False
    with_page: bool = True
    allow_manage: bool = False
    on_compile: Callable[[int, int], None] | None = None
    store: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidOptionError(f"port is {self.port}; allowed: 0 (any free one) to 65535")
        if any(not key.strip() or not key.isascii() for key in self.api_keys):
            raise InvalidOptionError("an API key is empty or not ASCII; allowed: ASCII characters")
        if self.ping_s <= 0:
            raise InvalidOptionError(f"ping_s is {self.ping_s}; allowed: above 0")
        if self.drain_s < 0:
            raise InvalidOptionError(f"drain_s is {self.drain_s}; allowed: seconds from 0")
