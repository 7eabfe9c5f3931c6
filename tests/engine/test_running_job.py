"""Stopping a program in the middle of an op."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.program.program import Op, Program
from edgellama.engine.running import machinery
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.threads import team_layout as layout
from edgellama.quant.errors import GenerationCancelled
from edgellama.quant.gguf.file import GGUFFile

# Wide enough that one op of a long step takes a while, in a layer that all tokens go through.
MODEL = TinyLlama(
    width=1024, heads=8, kv_heads=8, layers=2, feed_forward=8192, context_length=1024,
    weight_format="Q8_0",
)  # fmt: skip
PROMPT = np.arange(512) % 200


def program_with_ops(ops: Sequence[Op], kernels: CompiledKernels, **_: bool) -> Program:
    """A program of which a test can see the ops."""
    return Program(ops, kernels, keeps_ops=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on two threads."""
    path = write_tiny_llama(tmp_path_factory.mktemp("job") / "wide.gguf", MODEL)
    with GGUFFile(path) as file, Engine(file, num_threads=2) as engine:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machinery, "Program", program_with_ops)
            engine.forward(PROMPT, engine.new_cache(1024))
        yield engine


def test_the_tasks_of_a_running_op_are_taken_away(engine: Engine) -> None:
    """Cancelled in the middle of its longest op, a step leaves tasks of that op undone."""
    longest, program = next(
        (labels.index("blk.0.ffn_gate+up"), program)
        for program in engine._machine.programs.values()
        if "blk.0.ffn_gate+up" in (labels := [op.label for op in program.ops])
    )
    counter = program._counters[longest]
    token, cache = CancelToken(), engine.new_cache(1024)

    def cancel_inside() -> None:
        while not counter[layout.NEXT_TASK // 8] & layout.TASK_MASK:
            time.sleep(0)
        token.cancel()

    program.withdraw()
    canceller = threading.Thread(target=cancel_inside)
    canceller.start()
    with pytest.raises(GenerationCancelled):
        engine.forward(PROMPT, cache, cancelled=token)
    canceller.join()
    assert 0 < counter[layout.NUM_DONE // 8] < counter[layout.NUM_TASKS // 8]
    assert cache.length == 0


def test_the_next_step_has_all_of_its_tasks(engine: Engine) -> None:
    """However often steps are cancelled at any moment, the next one gives the same logits."""
    expected = engine.forward(PROMPT, engine.new_cache(1024))
    for number in range(20):
        token, cache = CancelToken(), engine.new_cache(1024)
        timer = threading.Timer(0.002 * number, token.cancel)
        timer.start()
        try:
            np.testing.assert_array_equal(engine.forward(PROMPT, cache, cancelled=token), expected)
        except GenerationCancelled:
            assert cache.length == 0
        again = engine.forward(PROMPT, engine.new_cache(1024))
        np.testing.assert_array_equal(again, expected)
        timer.cancel()
