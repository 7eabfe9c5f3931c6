"""One step: segments of several sequences in, the logits that are wanted of them out.

Chooses the kernels for the step, fills the table of segments and the positions, runs the program.
It knows neither who asked nor in which order; one step runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np

from edgellama.engine.adapted_rows import (
    AdaptedGroup,
    RowRange,
    adapted_order,
    adapted_ranges,
    bound_values,
    groups_of,
    ranges_among,
)
from edgellama.engine.adapter_ops import AdapterOps
from edgellama.engine.attention_ops import AttentionOps, LayerAttention
from edgellama.engine.buffers import Rows, StepBuffers, attention_tokens, card_bytes
from edgellama.engine.hooked_parts import HookedParts, RunOps
from edgellama.engine.hooks import Call, Hook
from edgellama.engine.kv_cache import KVCache
from edgellama.engine.llama_program import LlamaProgram
from edgellama.engine.matrix_kernels import RECORD_TILES
from edgellama.engine.page_layout import PageLayout
from edgellama.engine.program import Op
from edgellama.engine.rope import RopeTable
from edgellama.engine.segments import ALIKE, Segment, SegmentTable, attending_of
from edgellama.engine.step_rows import FloatRows, residual_rows, shares_of, wanted_rows
from edgellama.engine.step_sizes import MAX_SHORT_TOKENS
from edgellama.engine.step_values import Attending, Batch, Method, StepKind
from edgellama.engine.weights import ModelWeights
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.llama_tensors import OUTPUT
from edgellama.quant.model_config import ModelConfig

if TYPE_CHECKING:
    from edgellama.engine.card.device import CardDevice
    from edgellama.engine.card.step import CardStep
    from edgellama.engine.page_pool import AnyLayout

WIDEST_LANES = 16
LOGIT_ROWS = 64
"""Tokens whose logits are computed together."""
BODY, HEAD = "body", "head"
"""Whose ranges of rows a bound value is of."""


class StepRunner:
    """Steps of one model on one set of buffers."""

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
        """``is_exact``: one order of sums for one token and for many, see ``kind_of``."""
        self._config = config
        self._tier = tier
        self._is_exact = is_exact
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
        self._logits = b.logits(config.vocab_size, LOGIT_ROWS)
        self._strides = b.strides | {self._logits.stride}
        self._parts = HookedParts()
        self.card: CardStep | None = None

    def kind_of(self, num_tokens: int, attending: Attending, is_alike: bool = False) -> StepKind:
        """Which kernels a step of so many tokens takes; ``attending``: what suits its segments.

        ``is_alike``: each of a few tokens has the bits that it would have alone.
        Exact steps take no kernel that adds up in another order than those for many tokens.
        """
        batch = self._batch_of(num_tokens, is_alike)
        return StepKind(batch, "direct" if self._is_exact else attending)

    def kinds(self) -> set[StepKind]:
        """All kinds that steps on this tier can be of."""
        few = range(1, MAX_SHORT_TOKENS + 1)
        counts = (*few, MAX_SHORT_TOKENS + 1)
        ways = get_args(Method)
        kinds = {self.kind_of(count, attending) for count in counts for attending in ways}
        return kinds | {self.kind_of(count, "direct", is_alike=True) for count in few}

    def ops(self, kind: StepKind, pages: AnyLayout) -> list[Op]:
        """The ops of a step and of the logits of its last token, without hooks.

        Of all tokens where each is computed as it is alone.
        """
        writer = replace(self._writer, hooks=())
        batch = kind.batch if kind.batch in RECORD_TILES else self._batch_of(1)
        steps = writer.body(kind, self.attention(pages)) + writer.head(batch, self._logits)
        return [step for step in steps if isinstance(step, Op)]

    def kernels(self, pages: AnyLayout) -> set[Kernel]:
        """The kernels of all kinds of steps: layers of one form take the same."""
        layers = self._writer.weights.layers
        of_each_form = {layers[number].form: number for number in reversed(self._writer.layers)}
        steps, attention = self._writer.head(self._batch_of(1), self._logits), self.attention(pages)
        for number in of_each_form.values():
            writer = replace(self._writer, hooks=(), layers=range(number, number + 1))
            for kind in self.kinds():
                steps += writer.body(kind, attention)
        return {step.kernel for step in steps if isinstance(step, Op)}

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
        """What ``use_card`` will take of the card's memory; 0 once it has."""
        return 0 if self.card is not None else card_bytes(self._config, self.buffers)

    def use_card(self, device: CardDevice, cancel_word: int) -> None:
        """Run steps of sequences on this card, too; CudaError where that cannot be prepared.

        ``cancel_word``: that of the team of threads.
        """
        if self.card is None or self.card.device is not device:
            from edgellama.engine.card.step import CardStep

            self.card = CardStep(device, self._config, self.buffers, cancel_word)

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
        attending = self.kind_of(num_tokens, attending_of(segments)).attending
        numbers = self._table.fill(segments, attending, self._attention_tokens)
        values = {"num_tokens": num_tokens, **numbers}
        is_on_card = not isinstance(pages, PageLayout)
        if is_on_card:
            values |= self._card.begin(segments)
        key = ("attention", attending, pages)
        if not run_ops(key, lambda: list(self.attention(pages).ops(attending, 0)), values):
            return False
        if is_on_card:
            self._card.end()
        return True

    def place_next(self, token: int, cache: KVCache) -> None:
        """Make the step that has just run one of the next token of its only sequence."""
        position = cache.length
        self.buffers.token_ids[0] = token
        self._rope.fill(self.buffers.cos_sin[:1], position, 1, cache.prompt_length)
        self._table.move_first(position)
        if not isinstance(cache.layout, PageLayout):
            self._card.move_first(position)

    def end_on_card(self) -> None:
        """Say that a step of sequences on a card has run; CudaError if that failed."""
        self._card.end()

    def first_logits(self) -> FloatRows:
        """A copy of the logits (1, vocab_size) of the first row of the step that has just run."""
        return self._logits.array[:1, : self._config.vocab_size].copy()

    def _run_ordered(
        self, segments: Sequence[Segment], ranges: Sequence[RowRange], run_ops: RunOps
    ) -> list[FloatRows] | None:
        """The same for segments whose adapted rows are in ``ranges``."""
        self._settle()
        num_tokens = self._fill(segments)
        is_alike = len(segments) == 1 and segments[0].wanted in ALIKE and not ranges
        kind = self.kind_of(num_tokens, attending_of(segments), is_alike)
        pages = segments[0].cache.layout
        numbers = self._table.fill(segments, kind.attending, self._attention_tokens)
        rows = wanted_rows(segments)
        values = {"num_tokens": num_tokens, **numbers}
        if not isinstance(pages, PageLayout):
            values |= self._card.begin(segments)
        values |= bound_values(ranges, BODY, self._strides)
        adapted = groups_of(ranges, self._batch_of, num_tokens) if ranges else ()
        body, run = partial(self._body, kind, pages, adapted), self._run
        if 0 < len(rows) <= LOGIT_ROWS and rows[-1] - rows[0] == len(rows) - 1:
            batch = self._batch_of(len(rows), is_alike)
            values |= {"num_outputs": len(rows), "first_row": self._residual_row(rows[0])}
            outputs = ranges_among(ranges, rows, OUTPUT)
            values |= bound_values(outputs, HEAD, self._strides)
            head = partial(self._head, batch, groups_of(outputs, self._batch_of, len(rows)))
            key = ("step", kind, pages, batch, adapted, head.args)
            if not run(key, lambda: body() + head(), values, segments, rows, run_ops):
                return None
            logits = self._logits.array[: len(rows), : self._config.vocab_size].copy()
            return shares_of(segments, logits, residual_rows(segments, self._residual))
        body_key = ("body", kind, pages, adapted)
        if not run(body_key, body, values, segments, rows, run_ops):
            return None
        residual = residual_rows(segments, self._residual)
        logits = np.empty((len(rows), self._config.vocab_size), np.float32)
        if not self._run_heads(segments, rows, ranges, run_ops, logits):
            return None
        return shares_of(segments, logits, residual)

    def _run_heads(
        self,
        segments: Sequence[Segment],
        rows: Sequence[int],
        ranges: Sequence[RowRange],
        run_ops: RunOps,
        logits: FloatRows,
    ) -> bool:
        """Write the logits of rows of the step that has just run, LOGIT_ROWS at a time.

        False: cancelled.
        """
        residual, run = self.buffers.residual.array, self._run
        # Rows only ever move towards the front, so that none is overwritten before it is read.
        residual[: len(rows)] = residual[list(rows)]
        for first in range(0, len(rows), LOGIT_ROWS):
            chosen = rows[first : first + LOGIT_ROWS]
            batch = self._batch_of(len(chosen))
            values = {"num_outputs": len(chosen), "first_row": self._residual_row(first)}
            outputs = ranges_among(ranges, chosen, OUTPUT)
            values |= bound_values(outputs, HEAD, self._strides)
            head = partial(self._head, batch, groups_of(outputs, self._batch_of, len(chosen)))
            if not run(("head", head.args), head, values, segments, chosen, run_ops):
                return False
            found = self._logits.array[: len(chosen), : self._config.vocab_size]
            logits[first : first + len(chosen)] = found
        return True

    def _body(
        self, kind: StepKind, pages: AnyLayout, groups: tuple[AdaptedGroup, ...]
    ) -> list[Op | Call]:
        adapters = replace(self._writer.adapters, groups=groups, prefix=BODY)
        return replace(self._writer, adapters=adapters).body(kind, self.attention(pages))

    def _head(self, batch: Batch, groups: tuple[AdaptedGroup, ...]) -> list[Op | Call]:
        adapters = replace(self._writer.adapters, groups=groups, prefix=HEAD)
        return replace(self._writer, adapters=adapters).head(batch, self._logits)

    @property
    def _run(self) -> Callable[..., bool]:
        """Runs ops, and calls hooks between them: see ``HookedParts.run``."""
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
            self._rope.fill(
                self.buffers.cos_sin[row:end],
                segment.position,
                segment.num_tokens,
                segment.cache.prompt_length,
            )
            row = end
        return row

    def _settle(self) -> None:
        """Let a card finish a cancelled step, before its buffers are used again."""
        if self.card is not None and self.card.is_running:
            self.card.settle()

    @property
    def _card(self) -> CardStep:
        assert self.card is not None, "whoever places sequences on a card says which"
        return self.card

    def _batch_of(self, num_tokens: int, is_alike: bool = False) -> Batch:
        if num_tokens == 1 and not self._is_exact:
            return "one"
        if is_alike and num_tokens <= MAX_SHORT_TOKENS and not self._is_exact:
            # The weights of the second are in the first-level cache still.
            if num_tokens == 2:
                return "one"
            is_wide = num_tokens > 4 and self._tier.lanes == WIDEST_LANES
            return "eight_alike" if is_wide else "four_alike"
        if num_tokens > MAX_SHORT_TOKENS:
            return "many"
        if num_tokens <= 2:
            return "two"
        # Eight at a time need as many registers as the widest tiers have.
        is_eight = 4 < num_tokens <= 8 and self._tier.lanes == WIDEST_LANES
        return "eight" if is_eight else "four"

    def _residual_row(self, row: int) -> int:
        """Address of what the last body left of a token of its step."""
        residual: Rows = self.buffers.residual
        return residual.address + row * residual.stride
