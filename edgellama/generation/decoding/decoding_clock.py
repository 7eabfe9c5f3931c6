"""Counts and seconds of one generation, without the time that its caller spends.

``decoding`` decides what is counted, and when.
"""

from __future__ import annotations

from time import perf_counter

from edgellama.generation.results import Statistics


class DecodingClock:
    """Told what happens in a generation, it has its statistics in the end."""

    def __init__(self) -> None:
        self._resumed = 0.0
        self._prefilled_tokens = 0
        self._num_tokens = self._drafted_tokens = self._accepted_tokens = 0
        self._prefill_s = self._decode_s = self._first_token_s = 0.0

    def resume(self) -> None:
        """The caller has come back for more."""
        self._resumed = perf_counter()

    def note_prefill(self, num_tokens: int) -> None:
        """So many tokens of the prompt were computed since the clock was resumed; said once."""
        if self._num_tokens:
            return
        self._prefill_s = perf_counter() - self._resumed
        self._prefilled_tokens = max(0, num_tokens)

    def note_token(self) -> None:
        """One more token was chosen since the clock was resumed."""
        now = perf_counter()
        # Sampling the first token belongs to its latency, not to the decoding speed.
        if self._num_tokens:
            self._decode_s += now - self._resumed
        else:
            self._first_token_s = now - self._resumed
        self._num_tokens += 1
        self._resumed = now

    def note_draft(self, num_tokens: int, num_accepted: int) -> None:
        """Count guessed tokens, and those of them that were right."""
        self._drafted_tokens += num_tokens
        self._accepted_tokens += num_accepted

    def statistics(self, prompt_tokens: int, cache_bytes: int) -> Statistics:
        """The figures so far, with those of the prompt and of the sequence's memory."""
        return Statistics(
            prompt_tokens=prompt_tokens,
            prefilled_tokens=self._prefilled_tokens,
            decoded_tokens=max(0, self._num_tokens - 1),
            prefill_s=self._prefill_s,
            decode_s=self._decode_s,
            time_to_first_token_s=self._first_token_s,
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
            cache_bytes=cache_bytes,
        )
