"""An engine that says what a script says, for tests of what happens around the tokens."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import numpy as np

from edgellama.engine.pages.page_keys import shared_length
from edgellama.engine.scheduling.scheduler import Scheduler
from edgellama.quant.errors import ContextLengthError, GenerationCancelled
from reference.numpy_llama import Cancellable

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class ScriptedCache:
    """A cache that only counts."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self.tokens: list[int] = []
        self.num_bytes = 0
        self.closed = False

    @property
    def length(self) -> int:
        """How many tokens it counts."""
        return len(self.tokens)

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what is there of a prompt, all but its last token at most."""
        shared = min(shared_length(self.tokens, prompt), len(prompt) - 1)
        self.truncate(shared)
        return shared

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on."""
        assert 0 <= length <= self.length
        del self.tokens[length:]

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class ScriptedEngine:
    """Step n makes script[n] the likeliest token; after the script it goes on with its last.

    ``forwarded`` lists the tokens of every step. ``before_step`` is called with the step's
    number and may block or raise.
    """

    def __init__(
        self,
        script: Sequence[int],
        vocab_size: int,
        *,
        context_length: int = 256,
        before_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.script = list(script)
        self.config = SimpleNamespace(vocab_size=vocab_size, context_length=context_length)
        self.before_step = before_step
        self.scheduler = Scheduler(lambda segments, cancelled: None, context_length)
        self.kernels = None
        self.low_priority = self.orders_choices = False
        self.forwarded: list[list[int]] = []
        self.caches: list[ScriptedCache] = []

    def new_cache(self, context_length: int | None = None, *, kv_type: str = "f16") -> Any:
        """An empty cache of ``context_length`` positions (None: the model's own)."""
        cache = ScriptedCache(context_length or self.config.context_length)
        self.caches.append(cache)
        return cache

    def forward(
        self,
        tokens: Sequence[int],
        cache: Any,
        *,
        logits: Literal["last", "all", "next", "none"] = "last",
        cancelled: Cancellable | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Array:
        """Logits of the last position; raises as Engine.forward does."""
        assert logits in ("last", "next")
        step = len(self.forwarded)
        self.forwarded.append(list(tokens))
        self.before_step(step)
        if cancelled is not None and cancelled.cancelled:
            raise GenerationCancelled("the step was cancelled")
        if cache.length + len(tokens) > cache.context_length:
            raise ContextLengthError("full", cache.length + len(tokens), cache.context_length)
        cache.tokens += tokens
        row = np.ones((1, self.config.vocab_size), dtype=np.float32)
        row[0, self.script[min(step, len(self.script) - 1)]] = 50.0
        return row
