"""The content of a session: tokens with keys and values, adapters, and the stream that uses them.

It is saved, loaded and released here. ``session`` generates texts.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TypeVar

from edgellama.engine.context_memory import warn_of_length
from edgellama.engine.pages.kv_types import KVTypeChoice
from edgellama.engine.pages.text_cache import TextCache
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.weights.adapter import Adapter
from edgellama.engine.weights.adapter_set import NO_ADAPTERS, AdapterSet, has_adapters
from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.sessions.stream import Stream
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.given_values import check_function, given_path, is_true, whole_number
from edgellama.quant.process_bound import ProcessBound
from edgellama.quant.typing_backports import Self
from edgellama.text.tokenizer import Tokenizer

Result = TypeVar("Result")


class _Change:
    """Stands for a call that uses a session's cache."""


class SessionState(ProcessBound):
    """A sequence of tokens with its KV cache, used by one stream at a time."""

    def __init__(
        self,
        engine: TextEngine,
        tokenizer: Tokenizer,
        *,
        context_length: int | None,
        kv_type: KVTypeChoice,
        cache: TextCache | None,
        adapters: AdapterScales | AdapterSet | None,
    ) -> None:
        """The arguments are those of a session."""
        self._engine = engine
        self._tokenizer = tokenizer
        has_any = has_adapters(adapters)
        self._adapters = engine.adapters.adapter_set(adapters) if has_any else NO_ADAPTERS
        self._cache = self._empty_cache(context_length, kv_type) if cache is None else cache
        # Reentrant, as in Stream and Llama: a signal's handler may close what it interrupts.
        self._lock = threading.RLock()
        self._last: weakref.ref[Stream] | None = None
        self._change: weakref.ref[_Change] | None = None
        self._closed = False

    def _empty_cache(self, context_length: int | None, kv_type: KVTypeChoice) -> TextCache:
        engine = self._engine
        length = engine.config.context_length if context_length is None else context_length
        length = whole_number("context_length", length, 1)
        warn_of_length(length, engine.config)
        cache = engine.new_cache(length, kv_type=kv_type)
        cache.adapters = self._adapters
        return cache

    @property
    def context_length(self) -> int:
        """How many tokens fit, prompt and generated text together."""
        return self._cache.context_length

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that the cache holds now."""
        return tuple(self._cache.tokens)

    @property
    def closed(self) -> bool:
        """Whether it is closed, and holds nothing any more."""
        return self._closed

    @property
    def num_bytes(self) -> int:
        """Bytes of its tokens' keys and values; some may be shared with other sessions."""
        return self._cache.num_bytes

    @property
    def adapters(self) -> Mapping[Adapter, float]:
        """The adapters that texts are computed with, and the scale of each.

        Others may be assigned while no stream runs, also by name: ``session.adapters = {"a":
        0.5}``. The session then forgets what it holds, since that was computed with the old ones.
        """
        return dict(self._adapters.scales)

    @adapters.setter
    def adapters(self, adapters: AdapterScales | None) -> None:
        def change() -> None:
            self._adapters = self._engine.adapters.adapter_set(adapters)
            self._cache.adapters = self._adapters

        self._while_free(change)

    @property
    def busy(self) -> bool:
        """Whether a stream of this session is running."""
        return self._running() is not None

    def save(
        self, path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Write the session's tokens with keys and values, so that ``load`` can continue it.

        The file is replaced in one step, so it is always complete. The session may be used
        meanwhile.

        Arguments:
            path: The file. It contains the text as token ids, so keep it as private as the text.
            progress: Called as ``progress(written, total)`` with bytes. None (the default) is
                nobody.

        Raises:
            SessionFileError: The session holds no tokens.
            OSError: The file cannot be written.
            EdgellamaError: A stream of the session runs, or it is closed.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from edgellama import Llama
            >>> file = Path(tempfile.mkdtemp()) / "story.session"
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     with llama.session() as session:
            ...         first = session.generate("Once upon a time", max_tokens=8)
            ...         session.save(file)
            ...     with llama.load_session(file) as session:
            ...         again = session.generate("Once upon a time", max_tokens=8)
            >>> again.statistics.prefilled_tokens
            1
        """
        file = given_path("path", path)
        check_function("progress", progress, "two numbers")
        fork = self._while_free(self._cache.fork)
        try:
            self._engine.save(file, fork, progress)
        finally:
            fork.close()

    def load(self, path: str | os.PathLike[str], *, verify: bool = False) -> None:
        """Load the tokens of a file that ``save`` wrote, in place of the present ones.

        If the file was written on a CPU with vectors of the same length, keys and values are mapped
        instead of read. Then replace the file only by renaming, as ``save`` does.

        Arguments:
            path: The file. Its header and tokens are checked.
            verify: Read all keys and values now and compare their checksums. False (the default)
                takes them as they are; damaged ones can change texts, but nothing else.

        Raises:
            SessionFileError: No such file, a damaged one, or one of another model, KV type or
                adapter. A file that is cut off is used as far as it goes, with a warning.
            ContextLengthError: It has more tokens than the context.
            OSError: It cannot be read.
            EdgellamaError: A stream of the session runs, or it is closed.

        Example: see ``save``.
        """
        file, verify = given_path("path", path), is_true("verify", verify)

        def change() -> None:
            self._cache.adapters = self._adapters
            self._engine.load_saved(file, self._cache, verify=verify)

        self._while_free(change)

    def close(self) -> None:
        """End a running stream and release the cache's memory. Further calls do nothing."""
        with self._lock:
            self._closed = True
            if self._change is not None and self._change() is not None:
                # A signal's handler has interrupted the change, whose end closes the cache.
                return
        if (stream := self._running()) is not None:
            stream.end(self._cache.close)
        else:
            self._cache.close()

    def _cancel(self) -> None:
        """Ask a running stream to end, and do not wait for it."""
        if (stream := self._running()) is not None:
            stream.cancel()

    def _lose_threads(self) -> None:
        """In a forked process, be free of all threads but the calling one."""
        self._lock = threading.RLock()
        if (stream := self._running()) is not None:
            stream._lose_threads()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        length = f"context_length={self.context_length}"
        return f"<Session tokens={self._cache.length}, {length}{state}>"

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _running(self) -> Stream | None:
        """The stream that uses the session.

        What is in use is the stream's to say, not a lock's: wherever Ctrl-C ends a stream, the
        session is free once it is gone.
        """
        stream = self._last() if self._last is not None else None
        return None if stream is None or stream.ended else stream

    def _while_free(self, action: Callable[[], Result]) -> Result:
        """What ``action`` returns, which uses the cache while no stream does.

        EdgellamaError while one runs, and after close().
        """
        self._end_cancelled()
        with self._lock:
            self._check_free()
            # The change exists as long as this call: a weak reference forgets it however the call
            # ends.
            change = _Change()
            self._change = weakref.ref(change)
            try:
                return action()
            finally:
                del change
                if self._closed:
                    self._cache.close()

    def _end_cancelled(self) -> None:
        """Be free of a stream that was cancelled, which its user need not iterate any more.

        Not under the lock, which functions that a step calls may wait for.
        """
        if (stream := self._running()) is not None:
            stream._end_if_cancelled()

    def _check_free(self) -> None:
        if self._running() is not None:
            raise EdgellamaError(
                "this session is in use; end or close its stream first, or use another session"
            )
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise EdgellamaError("this session is closed")
