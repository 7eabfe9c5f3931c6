"""Divides a model's layers among machines, and predicts its speed: arithmetic over headers.

The time for a token is that of reading all weights and the text's keys and values once. How much of
its bandwidth a machine reaches, and what a call costs, are assumptions; docs/cluster.md shows the
arithmetic. Prompts depend on the speed of computing, which no bandwidth tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from edgellama.cluster.driver.spread_engine import CHUNK_TOKENS
from edgellama.cluster.machines import ClusterMachine
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.measure.footprint import (
    INTERPRETER_BYTES,
    LIBRARY_BYTES,
    Machine,
    activation_bytes,
    tensor_bytes,
    untouched_rows,
    vocabulary_bytes,
)
from edgellama.measure.model_outline import ModelOutline
from edgellama.quant.errors import InvalidOptionError

REACHED_SHARE = 0.85
"""Of the bandwidth of plain reads, what a step reaches."""
CALL_SECONDS = 0.002
"""What asking a stage on another machine costs beside its bytes: an actor's call of Ray."""
TOKEN_BYTES = 4
"""On the wire; the last stage chooses, so that logits are sent only where a text asks for them."""
SPARE_SHARE = 0.02
"""How much slower a token may be for stages that are more alike, which prompts gain by."""
MOST_CHOSEN_FROM = 10
"""Up to so many machines all choices among them are tried."""
EMBEDDING, OUTPUT_NORM, OUTPUT = "token_embd.weight", "output_norm.weight", "output.weight"


@dataclass(frozen=True)
class Wish:
    """What is to be spread: a model as ``type``, and the texts that it is for."""

    outline: ModelOutline
    type: str
    kv_types: KVTypes
    context_length: int
    host: Machine
    num_texts: int = 1


@dataclass(frozen=True)
class PlannedStage:
    """One machine's share. ``read_bytes``: of weights for a token; KV are those of full texts."""

    machine: ClusterMachine
    layers: range
    weights_bytes: int
    read_bytes: int
    kv_bytes: int
    other_bytes: int
    sent_bytes: int
    is_driver: bool

    @property
    def total_bytes(self) -> int:
        """What the stage's process takes at most."""
        return self.weights_bytes + self.kv_bytes + self.other_bytes

    def seconds(self, kv_bytes: int = 0) -> float:
        """What a token takes here, and on the way to here and back."""
        reading = (self.read_bytes + kv_bytes) / (REACHED_SHARE * self.machine.gb_per_second * 1e9)
        if self.is_driver:
            return reading
        return reading + CALL_SECONDS + 8 * self.sent_bytes / (self.machine.network_gbit * 1e9)


@dataclass(frozen=True)
class Plan:
    """Stages in order; the first machine's process drives."""

    wish: Wish
    stages: tuple[PlannedStage, ...]

    @property
    def tokens_per_second(self) -> float:
        """The speed of one text at its beginning."""
        return 1 / sum(stage.seconds() for stage in self.stages)

    @property
    def full_tokens_per_second(self) -> float:
        """The speed of one text whose context is full."""
        num_texts = self.wish.num_texts
        return 1 / sum(stage.seconds(stage.kv_bytes // num_texts) for stage in self.stages)

    @property
    def token_wire_bytes(self) -> int:
        """What goes over the network for a token."""
        return sum(stage.sent_bytes for stage in self.stages)

    @property
    def chunk_wire_bytes(self) -> int:
        """The same for a chunk of a prompt, of which no token comes back."""
        hops = max(0, 2 * len(self.stages) - 3)
        row_bytes = 4 * self.wish.outline.config.embedding_length
        return CHUNK_TOKENS * (hops * row_bytes + TOKEN_BYTES * (len(self.stages) - 1))


def plan(wish: Wish, machines: Sequence[ClusterMachine]) -> Plan:
    """The plan with most tokens a second; of those about as fast the one with even stages.

    Raises InvalidOptionError if the model fits no choice among the machines.
    """
    sizes = _Sizes(wish)
    plans = [found for chosen in _choices(machines) if (found := sizes.plan(chosen)) is not None]
    if not plans:
        raise InvalidOptionError(_refusal(wish, sizes, machines))
    return max(plans, key=lambda one: one.tokens_per_second)


def fits(wish: Wish, machines: Sequence[ClusterMachine]) -> bool:
    """Whether there is a plan with all machines or some of them."""
    sizes = _Sizes(wish)
    return any(sizes.plan(chosen) is not None for chosen in _choices(machines))


def _choices(machines: Sequence[ClusterMachine]) -> Iterator[tuple[ClusterMachine, ...]]:
    """Machines that may take part, in the order in which they are given, all of them last."""
    if len(machines) <= MOST_CHOSEN_FROM:
        for count in range(1, len(machines)):
            yield from combinations(machines, count)
    yield tuple(machines)


class _Sizes:
    """Bytes of a model's parts."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        outline, config = wish.outline, wish.outline.config
        sizes = tensor_bytes(outline, wish.type)
        self.layer_bytes = [
            sum(size for name, size in sizes.items() if name.startswith(f"blk.{number}."))
            for number in range(config.block_count)
        ]
        self.embedding_bytes = sizes[EMBEDDING]
        self.output_bytes = sizes.get(OUTPUT, self.embedding_bytes) + sizes[OUTPUT_NORM]
        whole = PageLayout.of(config, wish.kv_types, wish.host.tier.lanes)
        used = whole.used_bytes(wish.context_length, config.sliding_window)
        self.layer_kv_bytes = wish.num_texts * used // config.block_count
        untouched = untouched_rows(outline, wish.type)
        self.working_bytes = LIBRARY_BYTES + INTERPRETER_BYTES
        self.working_bytes += activation_bytes(outline, wish.host, wish.context_length, untouched)
        self.driver_bytes = vocabulary_bytes(outline.vocabulary)

    def plan(self, machines: Sequence[ClusterMachine]) -> Plan | None:
        """The best plan in which each of these machines has layers."""
        fastest = self._filled(machines, None)
        if fastest is None:
            return None
        allowed = fastest.tokens_per_second * (1 - SPARE_SHARE)
        # Stages as even as they can be without losing more than that.
        low, high, best = 0.0, max(stage.seconds() for stage in fastest.stages), fastest
        for _ in range(30):
            middle = (low + high) / 2
            found = self._filled(machines, middle)
            if found is not None and found.tokens_per_second >= allowed:
                high, best = middle, found
            else:
                low = middle
        return best

    def _filled(self, machines: Sequence[ClusterMachine], most_s: float | None) -> Plan | None:
        """The machines that read fastest get as many layers as they have room for.

        ``most_s``: what a stage's reading may take. None if not all layers find a place.
        """
        num_layers = len(self.layer_bytes)
        if len(machines) > num_layers:
            return None
        counts = [1] * len(machines)
        rooms = [
            self._room(machine, most_s, number == 0, number == len(machines) - 1)
            for number, machine in enumerate(machines)
        ]
        if min(rooms) < 1:
            return None
        order = sorted(range(len(machines)), key=lambda number: -machines[number].gb_per_second)
        for number in order:
            left = num_layers - sum(counts)
            counts[number] += min(left, rooms[number] - 1)
        if sum(counts) < num_layers:
            return None
        return Plan(self._wish, tuple(self._stages(machines, counts)))

    def _room(
        self, machine: ClusterMachine, most_s: float | None, is_first: bool, is_last: bool
    ) -> int:
        """Layers that a machine can take, all as large as the largest."""
        largest = max(self.layer_bytes)
        extra = self._extra_bytes(is_first, is_last) + self.working_bytes
        extra += self.driver_bytes if is_first else 0
        room = (machine.memory_bytes - extra) // (largest + self.layer_kv_bytes)
        if most_s is not None:
            readable = most_s * REACHED_SHARE * machine.gb_per_second * 1e9
            readable -= self.output_bytes if is_last else 0
            room = min(room, int(readable // largest))
        return room

    def _extra_bytes(self, is_first: bool, is_last: bool) -> int:
        """Weights beside those of layers; a tied output is the embedding."""
        is_both_here = is_first and is_last and self._wish.outline.is_tied
        embedding = self.embedding_bytes if is_first and not is_both_here else 0
        return embedding + (self.output_bytes if is_last else 0)

    def _stages(
        self, machines: Sequence[ClusterMachine], counts: Sequence[int]
    ) -> Iterator[PlannedStage]:
        config, start = self._wish.outline.config, 0
        row_bytes = 4 * config.embedding_length
        for number, (machine, count) in enumerate(zip(machines, counts, strict=True)):
            is_first, is_last = number == 0, number == len(machines) - 1
            layers = range(start, start + count)
            start += count
            own_bytes = sum(self.layer_bytes[layer] for layer in layers)
            back = TOKEN_BYTES if is_last else row_bytes
            yield PlannedStage(
                machine,
                layers,
                weights_bytes=own_bytes + self._extra_bytes(is_first, is_last),
                read_bytes=own_bytes + (self.output_bytes if is_last else 0),
                kv_bytes=count * self.layer_kv_bytes,
                other_bytes=self.working_bytes + (self.driver_bytes if is_first else 0),
                sent_bytes=0 if is_first else TOKEN_BYTES + row_bytes + back,
                is_driver=is_first,
            )

    def needed_bytes(self, num_machines: int) -> int:
        """What all machines together need, if layers could be cut anywhere."""
        num_layers = len(self.layer_bytes)
        shared = sum(self.layer_bytes) + num_layers * self.layer_kv_bytes
        ends = self._extra_bytes(True, True) + self.driver_bytes
        return shared + ends + num_machines * self.working_bytes


def _refusal(wish: Wish, sizes: _Sizes, machines: Sequence[ClusterMachine]) -> str:
    needed, there = sizes.needed_bytes(len(machines)), sum(m.memory_bytes for m in machines)
    layer_bytes = max(sizes.layer_bytes) + sizes.layer_kv_bytes
    where = "one machine" if len(machines) == 1 else f"{len(machines)} machines"
    lacking = max(needed - there, 0) + sizes.working_bytes + layer_bytes
    return (
        f"{wish.outline.name} as {wish.type} with {wish.num_texts} x {wish.context_length} tokens "
        f"of {wish.kv_types} keys and values needs {needed / 1e9:.1f} GB on {where}, in layers "
        f"of {layer_bytes / 1e9:.2f} GB; {there / 1e9:.1f} GB are there; "
        f"a further machine of {lacking / 1e9:.1f} GB would do"
    )
