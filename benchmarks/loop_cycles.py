"""What one token's kernels cost a processor: the inner loop of each format, read from its code.

For every format it counts the instructions of 256 weights and asks llvm-mca how many cycles a
processor needs for them when all data is in the first-level cache. Bytes a cycle times the clock is
the memory speed up to which one core keeps up. Needs objdump, and llvm-mca 16 or later.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass

from edgellama.kernels_cpu.compiling.code_cache import cache_folder, read_or_compile
from edgellama.kernels_cpu.compiling.compile_worker import read_checked
from edgellama.kernels_cpu.formats.blocks import BLOCK_CODES
from edgellama.kernels_cpu.machine.cpu import TIERS, Tier

WEIGHTS = 256
PRODUCTS = ("vpmaddubsw", "vpdpbusd")
"""Instructions that multiply weights with activations; each takes as many bytes as a register."""
VECTOR = re.compile(r"\b[xyz]mm\d")
ITERATIONS = 200


@dataclass(frozen=True)
class Loop:
    """The instructions of one turn of a loop."""

    instructions: tuple[str, ...]

    @property
    def names(self) -> Counter[str]:
        """How often each instruction is in it."""
        return Counter(line.split()[0] for line in self.instructions)

    @property
    def num_vector(self) -> int:
        """Instructions that touch a vector register."""
        return sum(bool(VECTOR.search(line)) for line in self.instructions)

    @property
    def num_spills(self) -> int:
        """Instructions that touch the stack."""
        return sum("rsp" in line or "rbp" in line for line in self.instructions)

    def num_weights(self, tier: Tier) -> int:
        """Weights that one turn multiplies."""
        products = sum(self.names[name] for name in PRODUCTS)
        return products * 4 * tier.lanes

    def cycles(self, processor: str, llvm_mca: str) -> float:
        """Cycles of a turn by llvm-mca's model of a processor."""
        body = [re.sub(r"\[rip[^\]]*\]", "[rip+8]", line) for line in self.instructions]
        body = [re.sub(r"^(j\w+)\s.*", r"\1 .L0", line) for line in body]
        result = subprocess.run(
            [llvm_mca, f"-mcpu={processor}", f"-iterations={ITERATIONS}"],
            input="\n".join([".intel_syntax noprefix", ".L0:", *body, ""]),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
        assert found is not None, result.stdout
        return int(found[1]) / ITERATIONS


def main_loop(object_file: bytes) -> Loop:
    """The innermost loop with most vector instructions."""
    lines = disassembled(object_file)
    number_at = {address: number for number, (address, _) in enumerate(lines)}
    ends = []
    for number, (address, text) in enumerate(lines):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        if jump and int(jump[1], 16) <= address and int(jump[1], 16) in number_at:
            ends.append((number_at[int(jump[1], 16)], number))
    inner = [
        (first, last)
        for first, last in ends
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in ends)
    ]
    loops = [Loop(tuple(text for _, text in lines[first : last + 1])) for first, last in inner]
    return max(loops, key=lambda loop: loop.num_vector)


def disassembled(object_file: bytes) -> list[tuple[int, str]]:
    """Addresses and instructions."""
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        file.write(object_file)
        file.flush()
        text = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", "-M", "intel", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    matches = (
        re.match(r"\s+([0-9a-f]+):\s+(?:\{vex\}\s*)?([^#]*)", line) for line in text.splitlines()
    )
    return [(int(found[1], 16), found[2].strip()) for found in matches if found]


def kernel_code(tier: Tier, name: str) -> bytes:
    """A kernel's object file, compiled if need be."""
    read_or_compile([name], tier)
    content = read_checked(cache_folder(tier) / f"{name}.o")
    assert content is not None
    return content


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", default="avx2", choices=[tier.name for tier in TIERS])
    parser.add_argument("--formats", nargs="+", default=list(BLOCK_CODES))
    parser.add_argument("--processors", nargs="+", default=["skylake", "znver3", "alderlake"])
    parser.add_argument("--llvm-mca", default="llvm-mca")
    options = parser.parse_args()
    (tier,) = (tier for tier in TIERS if tier.name == options.tier)
    heads = [f"{name}: cycles, bytes a cycle" for name in options.processors]
    print("| format | bytes | instructions | vector | spilled |", " | ".join(heads), "|")
    print("|---|---|---|---|---|" + "---|" * len(heads))
    for name in options.formats:
        loop = main_loop(kernel_code(tier, f"gemv_{name}"))
        share = WEIGHTS / loop.num_weights(tier)
        num_bytes = BLOCK_CODES[name].format.row_bytes(WEIGHTS)
        cells = [
            f"{len(loop.instructions) * share:.0f} | {loop.num_vector * share:.0f} | "
            f"{loop.num_spills * share:.0f}"
        ]
        for processor in options.processors:
            cycles = loop.cycles(processor, options.llvm_mca) * share
            cells.append(f"{cycles:.1f}, {num_bytes / cycles:.1f}")
        print(f"| {name} | {num_bytes} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
