"""The texts of a benchmark with a draft model, whose speed depends on how well they can be guessed.

Random tokens cannot be guessed, so the model continues a sentence of English greedily.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.generation.sessions.session import Session
from edgellama.generation.speculation.same_vocabulary import check_same_vocabulary
from edgellama.generation.speculation.speculation import Speculation
from edgellama.measure.op_work import Work
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer

OPENING = "The history of the bicycle begins in the nineteenth century, when"
DRAFT_CACHE_BYTES = 1 << 28


class DraftedRuns:
    """The timed part of a test that generates. A context manager; closes the draft model.

    ``num_drafted`` and ``num_accepted`` are the guesses of all runs so far.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        metadata: Mapping[str, Any],
        request: Mapping[str, Any],
    ) -> None:
        """Load the draft model; InvalidOptionError if it has another vocabulary."""
        self.engine, self._tokenizer = engine, tokenizer
        self._kv_types = KVTypes(**request["kv_types"])
        self._num_generated: int = request["num_generated"]
        self.num_drafted = self.num_accepted = 0
        opening = tokenizer.encode(OPENING)
        num_before = request["depth"] + request["num_prompt"]
        rng = np.random.default_rng(0)
        num_random = max(0, num_before - len(opening))
        self._prompt = [*rng.integers(0, tokenizer.vocab_size, num_random).tolist(), *opening]
        self._num_past = min(request["depth"], len(self._prompt))
        if not request["num_prompt"]:
            self._num_past = len(self._prompt)
        with ExitStack() as opened:
            file = opened.enter_context(GGUFFile(request["draft"]))
            own = load_tokenizer(file.metadata, file.path)
            check_same_vocabulary((tokenizer, metadata), (own, file.metadata))
            draft = opened.enter_context(
                Engine(
                    file,
                    num_threads=request["num_threads"],
                    tier=request["tier"],
                    cache_limit=DRAFT_CACHE_BYTES,
                )
            )
            self._speculation = Speculation(engine, True, draft)
            self._opened = opened.pop_all()

    def warm_up(self) -> None:
        """Write the text once, so that the draft model knows the prompt, as in a chat."""
        self.seconds()
        self.num_drafted = self.num_accepted = 0

    def seconds(self) -> float:
        """One timed run: the prompt behind the depth, if the test has one, and the text."""
        count = self._num_generated
        with Session(
            self.engine,
            self._tokenizer,
            context_length=len(self._prompt) + count,
            kv_type=self._kv_types.pair,
            speculation=self._speculation,
        ) as session:
            if self._num_past:
                session.generate(self._prompt[: self._num_past], max_tokens=0)
            started = perf_counter()
            result = session.generate(
                self._prompt, max_tokens=count, temperature=0, ignore_eos=True
            )
            seconds = perf_counter() - started
        self.num_drafted += result.statistics.drafted_tokens
        self.num_accepted += result.statistics.accepted_tokens
        return seconds

    def work(self) -> Work:
        """Nobody has counted what guesses are worth."""
        return Work(0, 0)

    def __enter__(self) -> DraftedRuns:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()
