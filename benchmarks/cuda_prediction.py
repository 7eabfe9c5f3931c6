"""What attention on a graphics card should gain a token, by the bandwidths that makers publish.

    python benchmarks/cuda_prediction.py

prints the table of docs/cuda.md. Decoding reads all weights and all keys and values once a token;
so a token takes as long as memory needs for these, and a card's layer besides what the bus takes.
Needs no card, and measures no time: ``cuda_attention.py`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cuda_cards import GTX_1660, H100_SXM, RTX_4060_LAPTOP, TESLA_T4, Card

from edgellama.measure.footprint import tensor_bytes
from edgellama.measure.model_outline import ModelOutline
from edgellama.measure.model_presets import MODEL_PRESETS
from edgellama.quant.model_config import EMBEDDING

MODELS = {"1B": "llama-3.2-1b", "8B": "llama-3.1-8b"}
"""Whose weights are Q4_0, and whose keys and values f16."""
DEPTHS = (4096, 32768, 131072)
REACHED = 0.8
"""The share of its published bandwidth that memory gives, of the computer and of the card."""
LAYER_SECONDS = 25e-6
"""Assumed for two launches, the copy of a table, and the question whether the card is done."""
SPARED_BYTES = 1e9
"""Of a card's memory, what its context, step tables and other programs have."""


@dataclass(frozen=True)
class Machine:
    """A card in a computer; bytes a second of the computer's memory, and of the bus to the card."""

    card: Card
    memory: str
    memory_bytes_per_s: float
    bus_bytes_per_s: float = 16e9

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.card.name}, {self.memory}"


MACHINES = (
    Machine(GTX_1660, "two channels of DDR4-3200", 51.2e9),
    Machine(RTX_4060_LAPTOP, "two channels of DDR5-5600", 89.6e9),
    Machine(TESLA_T4, "six channels of DDR4-2933", 140.8e9),
    Machine(H100_SXM, "eight channels of DDR5-4800", 307.2e9, bus_bytes_per_s=64e9),
)
"""As their makers say."""


@dataclass(frozen=True)
class Reading:
    """What a model's token reads, and what crosses the bus for it in all layers."""

    num_layers: int
    weight_bytes: float
    position_bytes: float
    crossing_bytes: float

    @classmethod
    def of(cls, preset: str) -> Reading:
        """Of a published model."""
        outline = ModelOutline.from_preset(MODEL_PRESETS[preset])
        config, sizes = outline.config, tensor_bytes(outline, "q4_0")
        weights = sum(n for name, n in sizes.items() if outline.is_tied or name != EMBEDDING)
        rows = 2 * config.query_length + 2 * config.key_length
        position = config.block_count * 2 * config.key_length * 2
        return cls(config.block_count, weights, position, config.block_count * rows * 4)

    def on_cpu(self, machine: Machine, depth: int) -> float:
        """Seconds of a token with the CPU's attention."""
        num_bytes = self.weight_bytes + depth * self.position_bytes
        return num_bytes / (REACHED * machine.memory_bytes_per_s)

    def on_card(self, machine: Machine, depth: int) -> float:
        """The same with the card's."""
        attention = depth * self.position_bytes / (REACHED * machine.card.memory_bytes_per_s)
        bus = self.num_layers * LAYER_SECONDS + self.crossing_bytes / machine.bus_bytes_per_s
        return self.on_cpu(machine, 0) + attention + bus

    def equal_depth(self, machine: Machine) -> int:
        """From how many tokens on the card's is as fast."""
        lost = self.on_card(machine, 0) - self.on_cpu(machine, 0)
        saved = 1 / machine.memory_bytes_per_s - 1 / machine.card.memory_bytes_per_s
        return round(lost * REACHED / (self.position_bytes * saved))

    def fits(self, machine: Machine, depth: int) -> bool:
        """Whether the card holds keys and values of so many tokens."""
        return depth * self.position_bytes + SPARED_BYTES <= machine.card.memory_bytes


def table() -> Iterator[str]:
    """The lines of the table: how many times as fast, and from where on."""
    depths = " | ".join(f"{depth:,} tokens" for depth in DEPTHS)
    yield f"| machine | model | {depths} | as fast from |"
    yield f"|---|---|{'---:|' * len(DEPTHS)}---:|"
    for machine in MACHINES:
        for name, preset in MODELS.items():
            reading = Reading.of(preset)
            gains = [
                f"{reading.on_cpu(machine, depth) / reading.on_card(machine, depth):.2f}"
                if reading.fits(machine, depth) else "too long"
                for depth in DEPTHS
            ]  # fmt: skip
            start = f"{reading.equal_depth(machine):,}"
            yield f"| {machine.name} | {name} | {' | '.join(gains)} | {start} |"


if __name__ == "__main__":
    print("\n".join(table()))
