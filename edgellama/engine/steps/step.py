"""One step: takes segments of several sequences, and returns the logits that are wanted.

It fills the table of segments and the positions, and runs all layers and the wanted rows' output.
It does not know who asked, or in which order. One step runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, get_args

from edgellama.engine.pages.card_layout import CardLayout
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.pages.page_pool import AnyLayout
from edgellama.engine.program.adapter_ops import AdapterOps
from edgellama.engine.program.attention_ops import AttentionOps, LayerAttention
from edgellama.engine.program.buffers import StepBuffers, attention_tokens, card_bytes
from edgellama.engine.program.hooks import Call, Hook
from edgellama.engine.program.llama_program import LlamaProgram
from edgellama.engine.program.program import Op
from edgellama.engine.program.step_values import Method, Reach, StepKind
from edgellama.engine.steps.adapted_rows import (
    RowRange,
    adapted_order,
    adapted_ranges,
    bound_values,
    groups_of,
)
from edgellama.engine.steps.hooked_parts import HookedParts, RunOps, StepPart
from edgellama.engine.steps.rope import RopeTable
from edgellama.engine.steps.segments import ALIKE, Segment, SegmentTable, attending_of
from edgellama.engine.steps.step_kinds import StepKinds
from edgellama.engine.steps.step_ops import StepOps
from edgellama.engine.steps.step_output import LOGIT_ROWS, StepOutput
from edgellama.engine.steps.step_rows import residual_rows, shares_of, wanted_rows
from edgellama.engine.weights.weights import ModelWeights
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.quant.array_types import FloatRows
from edgellama.quant.model_config import ModelConfig

BODY = "body"
"""Whose ranges of rows a bound value is of."""


class CardPart(Protocol):
    """What a graphics card does in the steps of one runner, for sequences that lie on it."""

    @property
    def is_running(self) -> bool:
        """Whether it may still write to the runner's buffers."""
        ...

    def attention(self, layout: CardLayout, host: AttentionOps) -> LayerAttention:
        """What writes attention over pages of a layout; ``host``: for layers on the CPU."""
        ...

    def begin(self, segments: Sequence[Segment]) -> dict[str, int]:
        """Prepare a step, of which no other may run; the values that its program binds."""
        ...

    def move_first(self, position: int) -> None:
        """Make the step that has just run one of its sequence's next token."""
        ...

    def end(self) -> None:
        """Say that a step has run; CudaError if that failed."""
        ...

    def settle(self) -> None:
        """Wait for what a cancelled step has left running."""
        ...

    def close(self) -> None:
        """Let the card see the buffers no more."""
        ...


class StepRunner:
    """Steps of one model on one set of buffers; ``card`` has a part in them where one is used."""

    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        tier: Tier,
        num_threads: int,
        *,
        layers: range,
        is_exact: bool = False,
    ) -> None:
        """``is_exact``: one order of sums for one token and for many, see ``StepKinds``."""
        self._config = config
        self.kinds = StepKinds(tier, is_exact)
        self._rope = RopeTable(config.rope, weights.rope_freqs)
        self.buffers = b = StepBuffers(config, tier, num_threads, self._rope.row_numbers)
        self._table = SegmentTable(
            config.head_count_kv, b.panel_rows, int(b.partials.ctypes.data), b.token_split_bytes
        )
        self._attention_tokens: dict[Method, int] = {
            method: attention_tokens(config, method) for method in get_args(Method)
        }
        self._writer = LlamaProgram(
            config, weights, b, num_threads, layers,
            AdapterOps(b, num_threads, is_exact), is_exact,
        )  # fmt: skip
        self._output = StepOutput(config.vocab_size, b, self.kinds)
        self._parts = HookedParts()
        self.card: CardPart | None = None

    def step_ops(self, pages: AnyLayout) -> StepOps:
        """Write steps over pages of a layout that nobody runs."""
        writer = replace(self._writer, hooks=())
        return StepOps(writer, self.kinds, self.attention(pages), self._output.shared_rows)

    def attention(self, pages: AnyLayout) -> LayerAttention:
        """What writes attention over pages of a layout."""
        if isinstance(pages, PageLayout):
            return self._host_attention(pages)
        return self._card.attention(pages, self._host_attention(pages.host))

    def _host_attention(self, pages: PageLayout) -> AttentionOps:
        table = self._table
        return AttentionOps(self._config, self.buffers, pages, table.address, table.packed_address)

    @property
    def card_bytes(self) -> int:
        """What a ``CardPart`` will take of the card's memory; 0 once there is one."""
        return 0 if self.card is not None else card_bytes(self._config, self.buffers)

    def set_hooks(self, hooks: tuple[Hook, ...]) -> None:
        """Other hooks from the next step on."""
        self._writer = replace(self._writer, hooks=hooks)
        self._parts.clear()

    def run(self, segments: Sequence[Segment], run_ops: RunOps) -> list[FloatRows] | None:
        """What is wanted of each segment, a row a token; None if it was cancelled.

        The caller has made room for the tokens, and counts them as stored afterwards.
        """
        order = adapted_order(segments)
        ordered = segments if order is None else [segments[i] for i in order]
        ranges = [] if order is None else adapted_ranges(ordered)
        found = self._run_ordered(ordered, ranges, run_ops)
        if found is not None and not isinstance(segments[0].cache.layout, PageLayout):
            self.end_on_card()
        if found is None or order is None:
            return found
        places = {number: place for place, number in enumerate(order)}
        return [found[places[number]] for number in range(len(segments))]

    def attend(self, segments: Sequence[Segment], run_ops: RunOps) -> bool:
        """Only the attention of a first layer, of the rows that lie in the buffers.

        False: cancelled. CudaError.
        """
        self._settle()
        num_tokens, pages = self._fill(segments), segments[0].cache.layout
        attending = self.kinds.kind_of(num_tokens, attending_of(segments)).attending
        numbers = self._table.fill(segments, attending, self._attention_tokens)
        values = {"num_tokens": num_tokens, **numbers}
        is_on_card = not isinstance(pages, PageLayout)
        if is_on_card:
            values |= self._card.begin(segments)
        key = ("attention", attending, pages)
        num_pairs = self._config.rotated_pairs(0)
        if not run_ops(
            key, lambda: list(self.attention(pages).ops(attending, 0, num_pairs)), values
        ):
            return False
        if is_on_card:
            self._card.end()
        return True

    def place_next(self, token: int, cache: KVCache, rows: FloatRows | None) -> None:
        """Make the step that has just run one of the next token of its only sequence.

        ``rows`` (1, embedding_length): see ``Segment``.
        """
        position = cache.length
        self.buffers.token_ids[0] = token
        if rows is not None:
            self._residual[:1] = rows
        self._fill_positions(0, position, 1, cache.prompt_length)
        self._table.move_first(position)
        if not isinstance(cache.layout, PageLayout):
            self._card.move_first(position)

    def end_on_card(self) -> None:
        """Say that a step of sequences on a card has run; CudaError if that failed."""
        self._card.end()

    def first_row(self, gives_rows: bool) -> FloatRows:
        """The logits (1, vocab_size) of the first row of the step that has just run.

        Or, of one that ``gives_rows``, that row itself. The next step overwrites it.
        """
        return (self._residual if gives_rows else self._output.logits)[:1]

    def _run_ordered(
        self, segments: Sequence[Segment], ranges: Sequence[RowRange], run_ops: RunOps
    ) -> list[FloatRows] | None:
        """The same for segments whose adapted rows are in ``ranges``."""
        self._settle()
        num_tokens = self._fill(segments)
        is_alike = len(segments) == 1 and segments[0].wanted in ALIKE and not ranges
        kind = self.kinds.kind_of(num_tokens, attending_of(segments), is_alike)
        output, writer, run = self._output, self._writer, self._run
        rows = wanted_rows(segments)
        written = output.logit_rows(writer, len(rows), ranges)
        reach = "end" if writer.hooks else output.reach_of(kind, segments, rows)
        body = self._body(segments, ranges, kind, num_tokens, reach)
        is_at_once = 0 < len(rows) <= LOGIT_ROWS and rows[-1] - rows[0] == len(rows) - 1
        if reach == "end" and is_at_once:
            head = output.head(writer, rows, ranges, rows[0], written.address, is_alike)
            if not run(body.then(head), segments, rows, run_ops):
                return None
            logits = output.result_rows(written, len(rows))
            output.copy_if_shared(written, logits)
            return shares_of(segments, logits, residual_rows(segments, self._residual))
        if not run(body, segments, rows, run_ops):
            return None
        residual = residual_rows(segments, self._residual)
        logits = output.result_rows(written, len(rows))
        output.gather(rows, reach)
        if reach == "attended" and not run(
            output.rest(writer, rows, ranges), segments, rows, run_ops
        ):
            return None
        for first, head in output.heads(writer, rows, ranges, written):
            chosen = rows[first : first + LOGIT_ROWS]
            if not run(head, segments, chosen, run_ops):
                return None
            output.copy_if_shared(written, logits[first : first + len(chosen)])
        return shares_of(segments, logits, residual)

    def _body(
        self,
        segments: Sequence[Segment],
        ranges: Sequence[RowRange],
        kind: StepKind,
        num_tokens: int,
        reach: Reach,
    ) -> StepPart:
        """All layers of all tokens, but for what ``reach`` leaves out."""
        pages = segments[0].cache.layout
        values = {"num_tokens": num_tokens}
        values |= self._table.fill(segments, kind.attending, self._attention_tokens)
        if not isinstance(pages, PageLayout):
            values |= self._card.begin(segments)
        values |= bound_values(ranges, BODY, self.buffers.strides)
        groups = groups_of(ranges, self.kinds.batch_of, num_tokens) if ranges else ()

        def write() -> list[Op | Call]:
            adapters = replace(self._writer.adapters, groups=groups, prefix=BODY)
            writer = replace(self._writer, adapters=adapters)
            return writer.body(kind, self.attention(pages), reach)

        return StepPart((BODY, kind, pages, groups, reach), write, values)

    @property
    def _run(self) -> Callable[..., bool]:
        """Run ops, and call hooks between them: see ``HookedParts.run``."""
        return partial(self._parts.run, self._writer.hooks)

    @property
    def _residual(self) -> FloatRows:
        """The residual stream's rows."""
        return self.buffers.residual.array[:, : self._config.embedding_length]

    def _fill(self, segments: Sequence[Segment]) -> int:
        """Token ids and positions of all segments; how many tokens they have."""
        row = 0
        for segment in segments:
            end = row + segment.num_tokens
            self.buffers.token_ids[row:end] = segment.tokens
            if segment.rows is not None:
                width = self._config.embedding_length
                self.buffers.residual.array[row:end, :width] = segment.rows
            length = segment.cache.prompt_length
            self._fill_positions(row, segment.position, segment.num_tokens, length)
            row = end
        return row

    def _fill_positions(self, row: int, position: int, num_tokens: int, prompt_length: int) -> None:
        """What depends on the positions of a segment, whose rows begin at ``row``."""
        self._rope.fill(self.buffers.cos_sin[row:], position, num_tokens, prompt_length)
        if self._config.rope.temperature_scale:
            self._rope.fill_query_scales(self.buffers.query_scales[row:], position, num_tokens)

    def _settle(self) -> None:
        """Let a card finish a cancelled step, before its buffers are used again."""
        if self.card is not None and self.card.is_running:
            self.card.settle()

    @property
    def _card(self) -> CardPart:
        assert self.card is not None, "whoever places sequences on a card says which"
        return self.card
