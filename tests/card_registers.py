"""Assembles PTX of the card's kernels by NVIDIA's ptxas, from the wheel nvidia-cuda-nvcc-cu12.

As a program it writes the tables of registers in docs/cuda_kernels.md and docs/cuda_registers.md
anew: ``python tests/card_registers.py``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from harness.card_compiler import NUM_WORKERS, compiled
from places import DOCS

from edgellama.cuda.card_tiers import SM_75, SM_80
from edgellama.cuda.signatures import CARD_KERNELS, CARD_SIGNATURES, TENSOR_TYPES
from edgellama.kernels_cpu.compiling.compile_worker import read_checked, write_checked
from edgellama.kernels_cpu.machine.user_cache import folder_to_fill
from edgellama.kernels_cpu.signatures import CACHE_TYPES, Kernel
from edgellama.quant.digests import blake2b

BEGIN, END = "<!-- registers -->\n", "<!-- end of registers -->"
PTXAS_WHEEL = "nvidia-cuda-nvcc-cu12"
TARGETS: Mapping[str, str] = {
    "sm_75": SM_75.name,
    **dict.fromkeys(("sm_80", "sm_86", "sm_89", "sm_90", "sm_120"), SM_80.name),
}
"""Cards, and the tier whose PTX they get."""
HEAD_SIZE = 128
SHOWN = [
    *(f"card_store_{kind}_{kind}" for kind in CACHE_TYPES),
    *(f"card_attend_few_{kind}_{kind}_{rows}" for kind in CACHE_TYPES for rows in (1, 4, 8)),
    *(f"card_attend_many_{kind}_{kind}_128" for kind in TENSOR_TYPES),
    *(f"card_attend_many_turing_{kind}_{kind}_128" for kind in TENSOR_TYPES),
    *(f"card_attend_many_plain_{kind}_{kind}_128" for kind in ("f32", "bf16")),
]
"""The kernels of the page about all of them."""
MIXED, ALIKE = (4, 128), {*range(1, 9), 16, 64, 80, 128, 256}
"""Rows of kernels for few tokens, and widths of heads of those for many: for two types, and one."""


def is_proved(kernel: Kernel) -> bool:
    """All kernels that store, those for one type, and each pair of types once."""
    keys, values, *rest = kernel.options
    return not rest or rest[0] in (ALIKE if keys == values else MIXED)


PROVED = [name for name, kernel in CARD_KERNELS.items() if is_proved(kernel)]
"""The kernels that are assembled for all cards with ``-m ptxas``."""
PAGES: Mapping[Path, Sequence[str]] = {
    DOCS / "cuda_kernels.md": SHOWN,
    DOCS / "cuda_registers.md": PROVED,
}
"""Pages with tables, and their kernels."""
ONLY_FOR: Mapping[str, Collection[str]] = {
    "card_attend_many": TARGETS.keys() - {"sm_75"},
    "card_attend_many_turing": {"sm_75"},
}
"""Families of kernels that some cards do not use, and the cards that use them."""


def kernels_of(target: str, names: Iterable[str]) -> list[str]:
    """Those of the kernels that a card uses."""
    families = {name: CARD_KERNELS[name].family for name in names}
    return [name for name in names if target in ONLY_FOR.get(families[name], TARGETS)]


@dataclass(frozen=True)
class Assembled:
    """What ptxas tells of a kernel; ``local_bytes`` are those of its stack and of spilled ones."""

    registers: int
    local_bytes: int


def ptxas() -> Path | None:
    """The assembler, if the wheel is installed."""
    spec = find_spec("nvidia.cuda_nvcc") if find_spec("nvidia") else None
    folders = list(spec.submodule_search_locations or []) if spec else []
    name = "ptxas.exe" if sys.platform == "win32" else "ptxas"
    found = (Path(folder) / "bin" / name for folder in folders)
    return next((path for path in found if path.is_file()), None)


def assemble(names: Iterable[str], target: str) -> dict[str, Assembled]:
    """What becomes of kernels on a card such as sm_86, which uses them."""
    texts = compiled(TARGETS[target], kernels_of(target, list(names)))
    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        results = pool.map(lambda name: _assemble(texts[name], target), texts)
        return dict(zip(texts, results, strict=True))


def _assemble(ptx: bytes, target: str) -> Assembled:
    """What ptxas tells of a text now, or has told before."""
    key = blake2b(ptx + f"{target} {version(PTXAS_WHEEL)}".encode(), digest_size=16)
    folder = folder_to_fill("card-tests") / "assembled"
    folder.mkdir(exist_ok=True)
    told = read_checked(folder / key.hexdigest())
    if told is None:
        told = json.dumps(astuple(_run_ptxas(ptx, target))).encode()
        write_checked(folder / key.hexdigest(), told)
    return Assembled(*json.loads(told))


def _run_ptxas(ptx: bytes, target: str) -> Assembled:
    program = ptxas()
    assert program is not None, f"install {PTXAS_WHEEL}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_bytes(ptx)
        command = [program, "-v", f"-arch={target}", source, "-o", f"{source}.cubin"]
        result = subprocess.run(command, capture_output=True, text=True)
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    local = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", report)
    registers = re.search(r"Used (\d+) registers", report)
    assert registers and len(local) == 3, report
    return Assembled(int(registers[1]), sum(map(int, local)))


def versions() -> str:
    """What the numbers of the table depend on besides the sources."""
    names = (PTXAS_WHEEL, "llvmlite", "numba")
    return ", ".join(f"{name} {version(name)}" for name in names)


def render_table(names: Sequence[str]) -> str:
    """The table of some kernels, between the marks of a page."""
    targets = {target: assemble(names, target) for target in TARGETS}
    lines = [
        f"With {versions()}:\n",
        f"| kernel | {' | '.join(targets)} | shared bytes |",
        f"|---{'|---:' * (len(targets) + 1)}|",
    ]
    for name in names:
        cells = [shown(f[name]) if name in f else "" for f in targets.values()]
        kernel = CARD_KERNELS[name]
        width = int(kernel.options[2]) if "many" in name else HEAD_SIZE
        shared = CARD_SIGNATURES[kernel].shared_bytes(width)
        lines.append(f"| `{name.removeprefix('card_')}` | {' | '.join(cells)} | {shared:,} |")
    return "\n".join(lines) + "\n"


def shown(found: Assembled) -> str:
    """Registers, and behind a plus sign the bytes of local memory, which should be none."""
    return f"{found.registers}{f' + {found.local_bytes} B' if found.local_bytes else ''}"


def main() -> None:
    """Write the pages' tables."""
    for page, names in PAGES.items():
        before, _, rest = page.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n{render_table(names)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
