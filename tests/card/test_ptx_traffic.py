"""What the kernels' accesses cost a card: banks of shared memory, pieces of global memory.

Counted for the PTX's own addresses; how long anything takes is told by no test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pytest
from doubles.ptx_card import PtxRunner, ptx_of
from harness.cards import Part
from ptx_machine import Traffic
from ptx_machine.traffic import Cost
from test_card_prefill import MANY, PLAIN, TURING
from test_ptx_kernels import FEW, Case, slowly


def traffic_of(case: Case) -> tuple[dict[str, float], dict[str, float]]:
    """By opcode how much more than the least shared and global memory take."""
    runner = PtxRunner(case.tier)
    runner.traffic = traffic = Traffic()
    assert case.error(runner=runner) < 1
    lines = [line.split() for line in ptx_of(case.kernel, case.tier).splitlines()]

    def of(costs: Mapping[int, Cost]) -> dict[str, float]:
        found: defaultdict[str, Cost] = defaultdict(Cost)
        for line, cost in costs.items():
            found[lines[line - 1][0].rstrip(";")].add(cost.taken, cost.least)
        return {opcode: cost.taken / cost.least for opcode, cost in found.items()}

    return of(traffic.shared), of(traffic.memory)


PROMPT, TOKEN = (Part(0, 100, 16),), (Part(0, 255, 1),)
TENSOR = Case(MANY, ("bf16", "f16"), 128, 1, 4, PROMPT)
QUANTIZED = (
    Case(MANY, ("q8_0", "q8_0"), 128, 1, 4, PROMPT),
    Case(MANY, ("q4_0", "q4_0"), 128, 1, 4, PROMPT),
    Case(TURING, ("f16", "q8_0"), 128, 1, 4, PROMPT, tier="sm_75"),
    Case(TURING, ("bf16", "bf16"), 128, 1, 4, PROMPT, tier="sm_75"),
)


@pytest.mark.parametrize("case", [TENSOR, *slowly(Case(
    MANY, ("f16", "f16"), 64, 1, 4, PROMPT))], ids=lambda case: case.kernel)  # fmt: skip
def test_tiles_meet_in_no_bank(case: Case) -> None:
    """Each round of shared memory hands out what it can, and copies ask for whole pieces."""
    shared, memory = traffic_of(case)
    assert len(shared) >= 6 and set(shared.values()) == {1.0}
    assert memory["cp.async.cg.shared.global"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", QUANTIZED, ids=lambda case: case.kernel)
def test_quantized_tiles(case: Case) -> None:
    """Only where expanded numbers are written do lanes meet, two of eight on average at most."""
    shared, memory = traffic_of(case)
    assert shared.pop("st.shared.v4.b32") <= 2
    assert set(shared.values()) == {1.0}
    assert memory["ld.global.v4.b32"] < 1.1


@pytest.mark.slow
def test_without_tensor_cores() -> None:
    """Loads of keys, values and queries meet in no bank."""
    shared, memory = traffic_of(Case(PLAIN, ("f32", "f32"), 128, 1, 4, PROMPT))
    assert shared["ld.shared.v4.b32"] == shared["st.shared.v4.b32"] == 1
    assert memory["ld.global.v4.b32"] == 1


@pytest.mark.parametrize("case", [
    Case(FEW, ("f16", "q8_0"), 128, 1, 4, TOKEN),
    *slowly(Case(FEW, ("f16", "f16"), 128, 1, 4, TOKEN),
            Case(FEW, ("q4_0", "q4_0"), 64, 1, 8, TOKEN)),
], ids=lambda case: case.kernel)  # fmt: skip
def test_a_token_reads_whole_pieces(case: Case) -> None:
    """Keys and values are loaded 16 bytes a lane, hardly more than there are; banks do not meet."""
    shared, memory = traffic_of(case)
    assert memory["ld.global.v4.b32"] < 1.15
    assert shared["ld.shared.v4.b32"] == 1


@pytest.mark.parametrize(("step", "rounds"), [(1, 1), (2, 2), (4, 4), (32, 32), (33, 1), (0, 1)])
def test_rounds(step: int, rounds: int) -> None:
    """Words of different rows of one bank take a round each; the same word only one for all."""
    traffic = Traffic()
    lanes = np.arange(32)
    traffic.note_shared(lanes * 4 * step, lanes, 4)
    assert traffic.shared[0] == Cost(rounds, 1)


@pytest.mark.parametrize(("step", "rounds"), [(16, 4), (32, 8), (48, 4), (128, 32)])
def test_rounds_of_16_bytes(step: int, rounds: int) -> None:
    """Reads of 16 bytes a lane are counted as the rounds that eight lanes at a time need."""
    traffic = Traffic()
    lanes = np.arange(32)
    traffic.note_shared(lanes * step, lanes, 16)
    assert traffic.shared[0] == Cost(rounds, 4)


def test_pieces() -> None:
    """32 words side by side are four pieces, five where they begin within one."""
    lanes = np.arange(32)
    for start, step, cost in ((0, 4, Cost(4, 4)), (16, 4, Cost(5, 4)), (0, 32, Cost(32, 4))):
        traffic = Traffic()
        traffic.note_memory(start + lanes * step, lanes, 4)
        assert traffic.memory[0] == cost
