"""NVIDIA's own assembler takes the PTX of every kernel, and keeps it in registers."""

from __future__ import annotations

from pathlib import Path

import pytest
from card_registers import BEGIN, END, PAGES, PROVED, TARGETS, assemble, ptxas, versions

pytestmark = pytest.mark.skipif(ptxas() is None, reason="no wheel of ptxas for this system")
EVERYWHERE = [
    "card_attend_few_f16_q4_0_4",
    "card_attend_many_bf16_f16_128",
    "card_attend_many_turing_f16_q8_0_128",
    "card_store_q8_0_q4_0",
]
"""Assembled for a card of each tier in the default run; the rest of SOME for one."""
OTHERS = ("sm_90", "sm_120")
"""Cards that are left to the slow tests: they get the PTX of sm_86."""
SOME = [
    *EVERYWHERE,
    "card_attend_few_q8_0_q8_0_8",
    "card_attend_many_plain_f32_q8_0_128",
]


@pytest.mark.parametrize(
    "target", ["sm_75", "sm_86", *(pytest.param(t, marks=pytest.mark.slow) for t in OTHERS)]
)
def test_no_register_is_spilled(target: str) -> None:
    """Few rows and many, with tensor cores and without, stay out of local memory."""
    found = assemble(SOME if target == "sm_86" else EVERYWHERE, target)
    assert {name for name, kernel in found.items() if kernel.local_bytes} == set()


@pytest.mark.ptxas
@pytest.mark.parametrize("target", TARGETS)
def test_no_register_of_any_kernel_is_spilled(target: str) -> None:
    """No kernel of any type, number of rows or usual head keeps a register in memory."""
    found = assemble(PROVED, target)
    assert {name for name, kernel in found.items() if kernel.local_bytes} == set()


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_true(page: Path) -> None:
    """Both show every kernel that they should, with the registers that ptxas tells.

    Else: python tests/card_registers.py. Other versions of the tools may give other numbers.
    """
    table = page.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    lines = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}
    assert list(rows) == [f"`{name.removeprefix('card_')}`" for name in PAGES[page]]
    if versions() in table:
        name = "card_store_f16_f16"
        found = assemble([name], "sm_86")[name]
        assert rows["`store_f16_f16`"][list(TARGETS).index("sm_86")] == str(found.registers)
