"""The text of one generation as its tokens come: whole characters, nothing banned, up to a stop.

It knows neither where tokens come from nor what else ends a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from edgellama.generation.decoding.held_tokens import HeldTokens, TokenText
from edgellama.generation.results import Chunk
from edgellama.text.tokenizer import StopStrings, StreamingDetokenizer

if TYPE_CHECKING:
    from edgellama.text.reasoning.expected import ExpectedReasoning
    from edgellama.text.reasoning.splitter import Parted, ReasoningSplitter
    from edgellama.text.tokenizer import Tokenizer
    from edgellama.tools.call_pieces import CallPiece
    from edgellama.tools.call_splitter import ExpectedCalls
    from edgellama.tools.tool import ToolCall


class Added(NamedTuple):
    """What a token makes of a text.

    ``chunks`` are certain now. ``is_stopped``: a stop string has been reached. ``num_dropped``:
    how many of the last tokens belong to the text no longer, because they come behind the stop
    or, if there is none, because a banned string begins at the first of them.
    """

    chunks: Sequence[Chunk]
    is_stopped: bool = False
    num_dropped: int = 0


class TextAssembly:
    """Tokens in, text out; what may still become a stop string or a banned one is held back."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        *,
        continuation: bool,
        min_tokens: int = 0,
        banned: Sequence[str] = (),
        calls: ExpectedCalls | None = None,
        reasoning: ExpectedReasoning | None = None,
    ) -> None:
        """``continuation``: the text carries on another, so a leading space is kept.

        Stop strings do not count in the text of the first ``min_tokens``. ``calls``: those of
        tools that there may be; they are no part of the text, and nothing stops inside them.
        ``reasoning``: the thinking that there may be, of which the same is true.
        """
        self._num_unstopped = min_tokens
        self._stops = StopStrings(stop)
        self._splitter = None if calls is None else calls.splitter()
        self._reasoning = None if reasoning is None else reasoning.splitter()
        self._thoughts: list[str] = []
        self.reasoning_places: list[int] = []
        self._num_parted = 0
        marks = () if calls is None else calls.marks(tokenizer).values()
        if reasoning is not None and reasoning.is_raw:
            marks = (*marks, *reasoning.marks.tokens)
        self._detokenizer = StreamingDetokenizer(tokenizer, continuation=continuation, shown=marks)
        self._held = HeldTokens(self._detokenizer, banned) if banned else None
        self._texts: list[str] = []

    @property
    def matched_stop(self) -> str | None:
        """The stop string that was reached."""
        return self._stops.matched

    @property
    def text(self) -> str:
        """All text that was given out."""
        return "".join(self._texts)

    @property
    def num_reasoning_tokens(self) -> int:
        """How many tokens were thinking so far."""
        return len(self.reasoning_places)

    @property
    def is_thinking(self) -> bool:
        """Whether thinking is open."""
        return self._reasoning is not None and self._reasoning.is_thinking

    @property
    def reasoning(self) -> str:
        """All thinking that was given out."""
        return "".join(self._thoughts)

    @cached_property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of a text that is finished."""
        if self._splitter is None or not self._splitter.calls:
            return ()
        from edgellama.tools.tool import ToolCall

        calls = self._splitter.calls
        # Calls that were streamed in pieces keep the ids of the pieces.
        told = dict(enumerate(self._splitter.ids))
        ids = [told.get(index, call.id) for index, call in enumerate(calls)]
        return tuple(
            ToolCall(call.name, call.arguments, *([name] if name else []))
            for call, name in zip(calls, ids, strict=True)
        )

    def add(self, token: int) -> Added:
        """Let a token be the text's next one."""
        if self._held is None:
            return self._chunks_of((TokenText(token, self._detokenizer.add(token)),))
        certain, num_taken_back = self._held.add(token)
        return Added((), num_dropped=num_taken_back) if num_taken_back else self._chunks_of(certain)

    def finish(self) -> Added:
        """What was still held back at the end."""
        rest, cut_call = self._detokenizer.finish(), ""
        if self._held is not None:
            rest = self._held.ending(rest)
        added = self._chunks_of(self._held.release() if self._held else ())
        thought = ""
        if self._reasoning is not None:
            thought, rest = self._parted_end(rest)
        if self._splitter is not None:
            rest = self._splitter.feed(rest)
            if self._splitter.in_calls:
                cut_call = self._splitter.finish()
            else:
                rest += self._splitter.finish()
        rest, is_stopped = self._stops.feed(rest)
        rest += self._stops.flush() + cut_call
        self._texts.append(rest)
        calls = () if self._splitter is None else self._splitter.take_pieces()
        chunks = added.chunks
        if rest or calls or thought:
            chunks = (*chunks, Chunk(rest, None, calls=calls, reasoning=thought))
        return Added(chunks, is_stopped, added.num_dropped)

    def _chunks_of(self, tokens: Sequence[TokenText]) -> Added:
        """Certain tokens as chunks, up to a stop string; what comes behind it is dropped."""
        chunks: list[Chunk] = []
        for place, (token, text) in enumerate(tokens):
            is_stopped, thought, is_thought = False, "", False
            calls: tuple[CallPiece, ...] = ()
            if self._reasoning is not None:
                thought, text, is_thought = self._parted(self._reasoning, token, text)
            if self._splitter is not None:
                text = self._splitter.feed(text)
                calls = self._splitter.take_pieces()
            if self._num_unstopped:
                self._num_unstopped -= 1
            else:
                text, is_stopped = self._stops.feed(text)
            self._texts.append(text)
            chunks.append(
                Chunk(text, token, calls=calls, reasoning=thought, is_reasoning=is_thought)
            )
            if is_stopped:
                held = self._held.release() if self._held else ()
                return Added(chunks, True, len(tokens) - place - 1 + len(held))
        return Added(chunks)

    def _parted(self, splitter: ReasoningSplitter, token: int, text: str) -> tuple[str, str, bool]:
        """A token's text as thinking and answer, and whether the token is counted as thinking."""
        was_thinking = splitter.is_thinking
        parted = splitter.feed(text)
        told = splitter.mark(token)
        if told is not None:
            parted = parted.joined(told)
        self._num_parted += 1
        is_thinking = was_thinking or splitter.is_thinking
        if is_thinking:
            is_first = not (self.reasoning_places or any(self._texts))
            # The mark that opens thinking may be several tokens.
            start = 0 if is_first else self._num_parted - 1
            self.reasoning_places += range(start, self._num_parted)
        if parted.reasoning:
            self._thoughts.append(parted.reasoning)
        return parted.reasoning, parted.text, is_thinking

    def _parted_end(self, rest: str) -> Parted:
        """The same of what comes behind the last token."""
        assert self._reasoning is not None
        parted = self._reasoning.feed(rest).joined(self._reasoning.finish())
        self._thoughts.append(parted.reasoning)
        return parted
