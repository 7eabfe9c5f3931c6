"""What a tile of keys costs a warp of a graphics card, in attention with many tokens.

Counts the instructions of a turn of the loop over tiles, read as ``cuda_loops`` does, without
those that only tiles at an edge run. Compares the cycles that tensor cores need for it with those
of all else. Needs no card, and measures no time.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from dataclasses import dataclass

from cuda_loops import disassemble

from edgellama.cuda.card_tiers import tier_of_card
from edgellama.cuda.prefill_tiles import TILE_WARPS, TensorTile
from edgellama.cuda.ptx_cache import ptx_of
from edgellama.cuda.signatures import TENSOR_TYPES, many_kernel

FUSED_OF_PRODUCT = 16 * 8 * 16
"""Multiplications of one product of 16 x 16 by 16 x 8."""
MATRICES_BYTES, SHARED_BYTES_PER_CYCLE, POWER_CYCLES = 512, 128, 8
"""What a warp's LDSM reads, what a multiprocessor's shared memory moves in a cycle, and how long
a quarter of it is busy with powers of two of 32 lanes."""
EDGE_SELECTS = 16
"""A part of the loop with so many selects is run at edges alone."""


@dataclass(frozen=True)
class Card:
    """``fused``: multiplications of 16-bit numbers in a cycle of a multiprocessor, sums in f32."""

    name: str
    fused: int

    @property
    def product_cycles(self) -> float:
        """How long a quarter of a multiprocessor is busy with one product."""
        return FUSED_OF_PRODUCT / (self.fused / 4)


CARDS = (Card("GeForce RTX 30, 40, 50", 256), Card("A100", 1024))
"""As their makers say."""


def tile_loop(text: str) -> Counter[str]:
    """Instructions of a turn of the loop with products, by the first part of their names."""
    places: dict[str, int] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            places[label[1]] = len(lines)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,5}\*/\s+(.*?);", line):
            lines.append(found[1])
    names = [re.sub(r"^@!?U?P\w+ ", "", line).split()[0].split(".")[0] for line in lines]
    jumps = [
        (i, places[target[1]]) for i, line in enumerate(lines)
        if (target := re.search(r"\bBRA `\((\.L_x_\d+)\)", line))
    ]  # fmt: skip
    loops = [(end, i + 1) for i, end in jumps if end <= i and "HMMA" in names[end : i + 1]]
    first, last = min(loops, key=lambda loop: loop[1] - loop[0])
    counts = Counter(names[first:last])
    for i, end in jumps:
        skipped = names[i + 1 : end]
        if first <= i < end <= last and skipped.count("FSEL") >= EDGE_SELECTS:
            counts -= Counter(skipped)
    return counts


def busy_cycles(counts: Counter[str], tile: TensorTile, card: Card) -> dict[str, float]:
    """How long each part of a card is busy with a tile of all four warps, each in its quarter."""
    written = tile.num_keys * tile.width * 2 * 2
    read = counts["LDSM"] * MATRICES_BYTES * TILE_WARPS
    return {
        "products": counts["HMMA"] * card.product_cycles,
        "instructions": counts.total(),
        "shared memory": (read + written) / SHARED_BYTES_PER_CYCLE,
        "powers": counts["MUFU"] * POWER_CYCLES,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ptxas", default="ptxas", help="path of the program")
    parser.add_argument("--nvdisasm", default="nvdisasm", help="path of the program")
    parser.add_argument("--head-sizes", type=int, nargs="+", default=[64, 128])
    options = parser.parse_args()
    tier = tier_of_card(8, 6)
    assert tier is not None
    columns = ["head", "type", "instructions", "products", "loads of matrices"]
    columns += [f"{card.name}: {what}" for card in CARDS for what in ("products", "longest")]
    print(f"| {' | '.join(columns)} |\n|---:|---|{'---:|' * (len(columns) - 2)}")
    for head_size in options.head_sizes:
        kernels = {kind: many_kernel((kind, kind), head_size, tier.name) for kind in TENSOR_TYPES}
        texts = ptx_of(kernels.values(), (8, 6))
        for kind, kernel in kernels.items():
            code = disassemble(texts[kernel], "sm_86", options.ptxas, options.nvdisasm)
            counts = tile_loop(code)
            cells: list[object] = [counts.total(), counts["HMMA"], counts["LDSM"]]
            tile = TensorTile((kind, kind), head_size)
            for card in CARDS:
                busy = busy_cycles(counts, tile, card)
                longest = max(busy, key=lambda part: busy[part])
                cells += [f"{busy['products']:.0f}", f"{longest}, {busy[longest]:.0f}"]
            print(f"| {head_size} | {kind} | {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
