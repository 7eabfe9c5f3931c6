"""What a byte of keys or values costs a graphics card, in attention with few tokens.

Counts the instructions of a turn of each inner loop, read from machine code that NVIDIA's ptxas
makes (wheel nvidia-cuda-nvcc-cu12) and nvdisasm shows (wheel nvidia-cuda-nvdisasm). Compares them
with what cards execute in the time in which their memory gives a byte. Needs no card, and measures
no time.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cuda_cards import A100, H100_SXM, RTX_3060, RTX_4060_LAPTOP, TESLA_T4

from edgellama.cuda.ptx_cache import ptx_of
from edgellama.kernels_cpu.signatures import CACHE_TYPES, Kernel

CARDS = (RTX_4060_LAPTOP, RTX_3060, TESLA_T4, A100, H100_SXM)
BYTES = {"128": 16, "64": 8, "U16": 2, "U8": 1}
"""Of a load in each lane, by the suffix of its name; others have 4."""


@dataclass(frozen=True)
class Loop:
    """The instructions of one turn of a loop, by their whole names."""

    names: Counter[str]

    @property
    def num_bytes(self) -> int:
        """Bytes that a lane loads from global memory."""
        return sum(
            count * BYTES.get(name.split(".")[-1], 4)
            for name, count in self.names.items()
            if name.startswith("LDG")
        )

    @property
    def memory(self) -> set[str]:
        """The names of what loads from memory."""
        return {name for name in self.names if name.startswith("LD")}

    @property
    def multiplies(self) -> bool:
        """Whether it is one of the two loops that matter: it loads, multiplies, and moves none."""
        parts = {name.split(".")[0] for name in self.names}
        return {"LDG", "LDS", "FFMA"} <= parts and "SHFL" not in parts

    @property
    def instructions_per_byte(self) -> float:
        """Instructions of a lane for each byte that it loads."""
        return self.names.total() / self.num_bytes


def disassemble(ptx: str, target: str, ptxas: str, nvdisasm: str) -> str:
    """The machine code of a card as text."""
    with tempfile.TemporaryDirectory() as folder:
        source, code = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx, "ascii")
        subprocess.run([ptxas, f"-arch={target}", source, "-o", code], check=True)
        result = subprocess.run([nvdisasm, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout


def innermost_loops(text: str) -> list[Loop]:
    """All loops without another in them, in their order."""
    places: dict[str, int] = {}
    instructions: list[str] = []
    loops: list[tuple[int, int]] = []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            places[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?(.*?);", line):
            instructions.append(found[1].split()[0])
            target = re.search(r"\bBRA `\((\.L_x_\d+)\)", found[1])
            if target and target[1] in places:
                loops.append((places[target[1]], len(instructions)))
    inner = [
        loop for loop in loops
        if not any(loop != other and loop[0] <= other[0] and other[1] <= loop[1] for other in loops)
    ]  # fmt: skip
    return [Loop(Counter(instructions[first:end])) for first, end in inner]


def is_rest(loops: list[Loop], number: int) -> bool:
    """Whether a loop is for the turns that are left by the one before it, of several at once."""
    before, own = loops[number - 1], loops[number]
    return number > 0 and before.memory == own.memory and before.num_bytes >= 2 * own.num_bytes


def main() -> None:
    """Print the table of kernels, then that of cards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ptxas", default="ptxas", help="path of the program")
    parser.add_argument("--nvdisasm", default="nvdisasm", help="path of the program")
    parser.add_argument("--capability", type=int, nargs=2, default=[8, 6])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8])
    options = parser.parse_args()
    major, minor = options.capability
    kernels = {
        (kind, rows): Kernel("card_attend_few", (kind, kind, rows))
        for kind in CACHE_TYPES
        for rows in options.rows
    }
    texts = ptx_of(kernels.values(), (major, minor))
    heads = [f"{part}, {rows} heads" for rows in options.rows for part in ("keys", "values")]
    print(f"| type | {' | '.join(heads)} |\n|---{'|---:' * len(heads)}|")
    for kind in CACHE_TYPES:
        cells = []
        for rows in options.rows:
            text = disassemble(
                texts[kernels[kind, rows]], f"sm_{major}{minor}", options.ptxas, options.nvdisasm
            )
            loops = [loop for loop in innermost_loops(text) if loop.multiplies]
            cells += [
                f"{loop.instructions_per_byte:.1f}"
                for number, loop in enumerate(loops)
                if not is_rest(loops, number)
            ]
        print(f"| {kind} | {' | '.join(cells)} |")
    print("\n| card | instructions in the time of a byte |\n|---|---:|")
    for card in CARDS:
        print(f"| {card.name} | {card.instructions_per_byte:.1f} |")


if __name__ == "__main__":
    main()
