"""The card's kernels as PTX, run on a machine for PTX: what they give, and that they need it all.

What is expected is the formula in f64, and of what is stored the bits of the kernels' CPU form.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from doubles import ptx_card
from doubles.ptx_card import PtxCache, PtxRunner
from doubles.warps import warp_runner
from harness.card_compiler import compiled
from harness.cards import Array, CardCache, Part
from ptx_machine import PtxFault, PtxMachine
from test_card_prefill import MANY, MORE_SHAPES, PLAIN, SHAPES, TURING, Shape
from test_card_store import rows_of

from edgellama.cuda.decode_layout import part_rows
from edgellama.cuda.prefill_tiles import width_of
from edgellama.cuda.signatures import CARD_KERNELS
from edgellama.kernels_cpu.layouts import ALL_KEYS
from edgellama.kernels_cpu.signatures import CACHE_TYPES

FEW = "card_attend_few"
ACCURACY = 3e-6
"""Of f32, relative to the largest number."""


@dataclass(frozen=True)
class Case(Shape):
    """A kernel as a tier of cards has it, of few tokens or many, and what it attends over."""

    tier: str = "sm_80"

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        last = part_rows(self.group) if self.family == FEW else width_of(self.head_size)
        return "_".join((self.family, *self.kinds, str(last)))

    def error(
        self, seed: int | None = None, *, fuses: bool = False, runner: PtxRunner | None = None
    ) -> float:
        """See ``error_in``."""
        return self.error_in(
            partial(PtxCache, runner or PtxRunner(self.tier, seed=seed, fuses=fuses))
        )

    def attend_in(self, cache: CardCache, q: Array) -> Array:
        """What the kernel gives."""
        if self.family == FEW:
            return cache.attend_few(self.parts, q, self.split_keys)
        return super().attend_in(cache, q)

    def loss(self, expected: Array) -> float:
        """What may be lost."""
        if self.family == FEW:
            return ACCURACY * float(np.abs(expected).max())
        return super().loss(expected)


def case_name(case: Case) -> str:
    """How pytest shows it."""
    split = "" if case.split_keys == ALL_KEYS else f"-{case.split_keys}"
    return f"{case.tier}-{case.kernel.removeprefix('card_')}{split}"


TOKENS = (Part(0, 150, 2), Part(1, 3, 3), Part(2, 0, 1), Part(3, 126, 4))
"""Some at the edges of pages."""
RAGGED = (Part(0, 100, 30), Part(1, 0, 70))
DEEP = (Part(0, 200, 17), Part(1, 120, 9), Part(2, 0, 40))
"""More keys than a part has."""
FEW_CASE = Case(FEW, ("f16", "q4_0"), 36, 1, 4, TOKENS, split_keys=128)
MANY_CASE = Case(MANY, ("bf16", "f16"), 128, 1, 3, RAGGED[:1], window=33)
SPLIT_CASE = dataclasses.replace(
    MANY_CASE, parts=(Part(0, 250, 10),), window=ALL_KEYS, split_keys=128
)
DEFAULT = (
    FEW_CASE,
    MANY_CASE,
    SPLIT_CASE,
    Case(FEW, ("q8_0", "q8_0"), 64, 1, 16, TOKENS[:3]),
    Case(TURING, ("f16", "q8_0"), 128, 1, 3, DEEP[:2], split_keys=128, tier="sm_75"),
    Case(PLAIN, ("f32", "q8_0"), 116, 1, 1, RAGGED[:1]),
)
"""Of kernels that are assembled in every run, too."""
MORE = (
    dataclasses.replace(FEW_CASE, tier="sm_75", window=70),
    Case(FEW, ("f32", "bf16"), 6, 1, 3, TOKENS, split_keys=128),
    Case(FEW, ("q4_0", "f16"), 128, 1, 2, TOKENS, window=140, split_keys=128),
    Case(MANY, ("bf16", "f16"), 120, 1, 3, RAGGED),
    Case(MANY, ("bf16", "f16"), 128, 2, 3, DEEP, window=150, split_keys=128),
    Case(TURING, ("f16", "q8_0"), 118, 2, 4, RAGGED, window=60, tier="sm_75"),
    Case(TURING, ("bf16", "bf16"), 128, 1, 3, DEEP[:2], split_keys=128, tier="sm_75"),
    Case(PLAIN, ("f32", "q8_0"), 116, 1, 3, RAGGED, window=50),
    Case(TURING, ("f16", "q8_0"), 118, 2, 4, RAGGED[:1], split_keys=128, tier="sm_75"),
    Case(PLAIN, ("f32", "q8_0"), 116, 1, 3, RAGGED[:1], split_keys=128),
)


def slowly(*cases: Case) -> list[Any]:
    """Cases that take too long for every run."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("case", [*DEFAULT, *slowly(*MORE)], ids=case_name)
def test_as_the_formula_says(case: Case) -> None:
    """softmax(q k) v over what each token sees, from PTX alone, without a fault."""
    assert case.error() < 1


@pytest.mark.parametrize(
    "case", [FEW_CASE, SPLIT_CASE, *slowly(MANY_CASE, *DEFAULT[3:], *MORE)], ids=case_name
)
def test_whoever_is_first(case: Case) -> None:
    """Blocks and warps go on in any order, and products and sums may be rounded together."""
    short = dataclasses.replace(case, parts=case.parts[:1])
    for seed in (1, 2):
        assert short.error(seed, fuses=True) < 1


def stored(cache: CardCache, k: Array, v: Array) -> bytes:
    """The pages after two steps."""
    cache.store([Part(0, 0, 9), Part(1, 120, 20)], k[:29], v[:29], np.ones((29, 6, 80), "f4"))
    cache.store([Part(0, 9, len(k) - 29)], k[29:], v[29:])
    return cache.memory.tobytes()


def check_store(pair: tuple[str, str], tier: str) -> None:
    """Compare with the CPU form, whose bits are the CPU's."""
    rng = np.random.default_rng(2)
    k, v = rows_of(rng, 40, 2, 80), rows_of(rng, 40, 2, 80)
    shape = (pair, 80, 2, 3, 2, 140)
    expected = stored(CardCache(warp_runner(), *shape), k, v)
    for fuses in (False, True):
        assert stored(PtxCache(PtxRunner(tier, fuses=fuses), *shape), k, v) == expected


@pytest.mark.parametrize("tier", [pytest.param("sm_75", marks=pytest.mark.slow), "sm_80"])
def test_stored_bits(tier: str) -> None:
    """Keys and values are rounded to the same bits, however a card fuses."""
    check_store(("q8_0", "q4_0"), tier)


# What is changed is found out.


def is_found(case: Case, text: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a text in the place of the kernel's is seen to be wrong."""
    machine = PtxMachine(text)
    monkeypatch.setattr(ptx_card, "machine_of", lambda *names, **options: machine)
    try:
        return not case.error() < 1
    except PtxFault:
        return True


def text_of(case: Case) -> str:
    """The PTX of a case's kernel, each instruction on one line."""
    text = ptx_card.ptx_of(case.kernel, case.tier)
    return re.sub(r"(?m)[ \t]+", " ", re.sub(r"\n\t\t(?=\{)", " ", text))


WAITS = re.compile(r"^\s*(bar\.sync|bar\.warp\.sync|cp\.async\.wait_all|membar\.gl)\b.*;$",
                   re.MULTILINE)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", (*DEFAULT, *MORE), ids=case_name)
def test_every_wait_is_needed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one barrier of blocks, fence or wait for copies the machine finds a fault.

    Some barriers of warps only let lanes meet; without most of the others it finds a race.
    """
    text, found = text_of(case), []
    for match in WAITS.finditer(text):
        without = text[: match.start()] + text[match.end() :]
        found.append((match[1], is_found(case, without, monkeypatch)))
    of_warps = [is_needed for what, is_needed in found if what == "bar.warp.sync"]
    is_split = case.split_keys != ALL_KEYS
    kinds = {"bar.sync", "cp.async.wait_all", *(["membar.gl"] if is_split else [])}
    assert all(is_needed for what, is_needed in found if what in kinds)
    if is_split:  # Else those around the merging of parts are not even reached.
        assert sum(of_warps) >= len(of_warps) // 2 - 1


CHANGES = {
    MANY_CASE: (
        (r"cvt\.rn\.f16x2\.f32 (\S+), (\S+), (\S+);", r"cvt.rn.f16x2.f32 \1, \3, \2;"),
        (r"(mma\.\S+ \{[^}]*\}, )\{(\S+), (\S+), (\S+), (\S+)\}", r"\1{\2, \4, \3, \5}"),
        (r"(mma\.\S+ \{[^}]*\}, \{[^}]*\}, )\{(\S+), (\S+)\}", r"\1{\3, \2}"),
        (r"\.x4\.trans\.shared", r".x4.shared"),
        (r"(\.x4\.shared\.b16) \{(\S+), (\S+), ", r"\1 {\3, \2, "),
        (r"shfl\.sync\.bfly\.b32 (\S+, \S+), 2,", r"shfl.sync.bfly.b32 \1, 4,"),
    ),
    FEW_CASE: (
        (r"shfl\.sync\.bfly\.b32 (\S+, \S+), 16,", r"shfl.sync.bfly.b32 \1, 8,"),
        (r"prmt\.b32 (.*), 0x(.)(.)(.)(.)U;", r"prmt.b32 \1, 0x\2\3\5\4U;"),
        (r"ld\.global\.v4\.b32 \{(\S+), (\S+), ", r"ld.global.v4.b32 {\2, \1, "),
    ),
}
"""Operands, registers of matrices and lanes, in another order."""


@pytest.mark.parametrize("case", CHANGES, ids=case_name)
def test_changes_are_found(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that does anything otherwise gives other results."""
    num_tokens = 3 if case.family == FEW else 9
    short, text = dataclasses.replace(case, parts=(Part(0, 40, num_tokens),)), text_of(case)
    assert not is_found(short, text, monkeypatch)
    for before, after in CHANGES[case]:
        changed, count = re.subn(before, after, text)
        assert count and is_found(short, changed, monkeypatch), before


# All of them.


def all_cases() -> Sequence[Case]:
    """Every kernel that attends once, with shapes that differ from one to the next."""
    found = []
    for number, (name, kernel) in enumerate(CARD_KERNELS.items()):
        if kernel.family == "card_store":
            continue
        keys, values, last = kernel.options
        tier = "sm_75" if kernel.family == TURING or number % 5 == 0 else "sm_80"
        if kernel.family == MANY:
            tier = "sm_80"
        window = (ALL_KEYS, 40, ALL_KEYS, 3)[number % 4]
        group = int(last) if kernel.family == FEW else (1, 3, 4)[number % 3]
        size = (64, 36, 128, 100, 80)[number % 5] if kernel.family == FEW else int(last) - 2
        parts = TOKENS if kernel.family == FEW else (RAGGED, DEEP)[number % 2]
        kinds = (str(keys), str(values))
        case = Case(kernel.family, kinds, size, 1, group, parts, window, 128, tier=tier)
        assert case.kernel == name
        found.append(case)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", [
    Case(**vars(shape), tier="sm_75" if shape.family == TURING else "sm_80")
    for shape in (*SHAPES, *MORE_SHAPES)
], ids=case_name)  # fmt: skip
def test_more_shapes(case: Case) -> None:
    """The shapes of which the CPU form is tested."""
    assert case.error() < 1


@pytest.fixture(scope="module")
def compiled_together() -> None:
    """All kernels at once, so that the compilers share what they type."""
    for tier in ("sm_75", "sm_80"):
        compiled(tier, [case.kernel for case in all_cases() if case.tier == tier])


@pytest.mark.ptxas
@pytest.mark.usefixtures("compiled_together")
@pytest.mark.parametrize("case", all_cases(), ids=case_name)
def test_every_kernel(case: Case) -> None:
    """Each kernel of any type, number of rows and width of heads computes what it should."""
    assert case.error() < 1


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(keys, values) for keys in CACHE_TYPES for values in CACHE_TYPES])
def test_all_stored_bits(pair: tuple[str, str]) -> None:
    """Each pair of types stores the bits that the CPU stores, on both tiers."""
    check_store(pair, "sm_80")
    check_store(pair, "sm_75")
