"""Compiles kernels of the card in processes of their own: to PTX, or to the CPU form of a tier.

What was compiled from the same sources lies in the cache folder. Run as a program: the target
(a tier's name), a folder and names of kernels.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from places import REPOSITORY, TESTS

from edgellama.cuda.card_tiers import CARD_TIERS
from edgellama.cuda.signatures import CARD_KERNELS
from edgellama.kernels_cpu.compiling.compile_pool import SAME_ORDER
from edgellama.kernels_cpu.compiling.compile_worker import read_checked, write_checked
from edgellama.kernels_cpu.compiling.source_hash import source_hash
from edgellama.kernels_cpu.machine.user_cache import folder_to_fill
from edgellama.quant.digests import blake2b

SOURCES = REPOSITORY / "edgellama" / "cuda"
NUM_WORKERS = 2
DEFAULT_RUN: Mapping[str, Sequence[str]] = {
    "sm_75": ["card_attend_few_f16_q4_0_4", "card_attend_many_turing_f16_q8_0_128",
              "card_store_q8_0_q4_0"],
    "sm_80": ["card_attend_few_f16_q4_0_4", "card_attend_few_q8_0_q8_0_8",
              "card_attend_many_bf16_f16_128", "card_attend_many_plain_f32_q8_0_128",
              "card_attend_many_q8_0_q8_0_16", "card_store_f16_f16", "card_store_q8_0_q4_0",
              "card_store_q8_0_q8_0"],
}  # fmt: skip
"""The PTX that a run of all tests needs, by its target. It is compiled before the tests, so that
compilers type once what kernels share."""
DEFAULT_CPU_FORM = (
    *(f"card_store_{pair}" for pair in ("f16_f16", "f32_f32", "bf16_q4_0", "q4_0_bf16",
                                        "q8_0_q4_0", "q8_0_q8_0")),
    *(f"card_attend_few_{rows}" for rows in ("f16_f16_3", "f32_f32_2", "bf16_q4_0_3",
                                             "q4_0_bf16_8", "q8_0_q8_0_5")),
    *(f"card_attend_many_{width}" for width in ("f16_f16_64", "q4_0_q8_0_80", "q8_0_bf16_112",
                                                "plain_f32_f32_80", "turing_bf16_bf16_96",
                                                "turing_f16_q4_0_96")),
)  # fmt: skip
"""The same of the CPU form, for the fastest tier."""
WEEK_SECONDS = 7 * 24 * 3600


def compiled(target: str, names: Iterable[str]) -> dict[str, bytes]:
    """PTX where ``target`` is a tier of cards, such as sm_80, else object code of the CPU form."""
    root = folder_to_fill("card-tests")
    folder = root / _key() / target
    if not folder.exists():
        _forget_old(root)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sorted(set(names))
    missing = [name for name in wanted if read_checked(folder / name) is None]
    shares = [missing[number::NUM_WORKERS] for number in range(NUM_WORKERS)]
    program = [sys.executable, "-m", "harness.card_compiler", target, str(folder)]
    # As for users: other seeds give other registers, and texts that nobody has assembled yet.
    environment = {**os.environ, **SAME_ORDER}
    workers = [
        subprocess.Popen([*program, *share], env=environment, cwd=TESTS)
        for share in shares
        if share
    ]
    for worker in workers:
        assert worker.wait() == 0, f"{target}: {missing} could not be compiled"
    found = {name: read_checked(folder / name) for name in wanted}
    return {name: content for name, content in found.items() if content is not None}


def _forget_old(root: Path) -> None:
    """Remove what was compiled from sources that nobody has tested for a week."""
    for folder in root.iterdir():
        if folder.stat().st_mtime < time.time() - WEEK_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _key() -> str:
    """Changes with all that the code depends on."""
    key = blake2b((source_hash() or "").encode(), digest_size=8)
    for source in sorted(SOURCES.rglob("*.py")):
        key.update(source.read_bytes())
    key.update(f"{version('numba')} {version('llvmlite')} {sys.version}".encode())
    return key.hexdigest()


def _compile(target: str, folder: Path, names: list[str]) -> None:
    from edgellama.cuda import ptx_target
    from edgellama.cuda.kernels.cpu_form import compile_object
    from edgellama.kernels_cpu.compiling import jit
    from edgellama.kernels_cpu.machine.cpu import compilable_tier

    cards = {tier.name: tier for tier in CARD_TIERS}
    if target in cards:
        ptx_target.use_card(cards[target])
    else:
        jit.use_tier(compilable_tier(target))
    for name in names:
        kernel = CARD_KERNELS[name]
        if target in cards:
            write_checked(folder / name, ptx_target.compile_ptx(kernel).encode())
        else:
            write_checked(folder / name, compile_object(kernel))


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(5)
    _compile(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
