"""Whole texts over a card that is a test double, with the PTX that the engine gives to the driver.

No card is behind it. Launches are the engine's own: kernels find their arguments, blocks and
memory as a driver would give them. The texts are those of the CPU's attention.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doubles.fake_cuda import FakeCard
from doubles.ptx_double import PtxDouble
from harness.card_compiler import compiled
from reference.tiny_models import TinyLlama, write_tiny_llama
from test_card_engine import TOKENS, engine_on, expected, is_on_card
from test_card_texts import texts

from edgellama.cuda.card_tiers import tier_of_card
from edgellama.cuda.driver import Driver
from edgellama.engine.card import device as card_device
from edgellama.kernels_cpu.signatures import Kernel

PROMPT = [1, *(7 * number % 250 for number in range(135))]
AMPERE, TURING = (8, 6), (7, 5)
DEFAULT = ("q8_0", AMPERE, TinyLlama(heads=8, kv_heads=1, head_size=16, width=32, layers=1,
                                          context_length=1024))  # fmt: skip
OTHERS = (
    ("f16", AMPERE, TinyLlama(heads=6, kv_heads=2, head_size=64, width=32, context_length=1024)),
    ("f16", TURING, TinyLlama(heads=6, kv_heads=2, head_size=64, width=32, context_length=1024,
                              sliding_window=100)),
    ("bf16", AMPERE, TinyLlama(heads=9, kv_heads=1, head_size=48, width=32, context_length=1024)),
    ("f32", AMPERE, TinyLlama(heads=4, kv_heads=2, head_size=16, width=32, context_length=1024)),
    ("q8_0/q4_0", TURING, TinyLlama(heads=9, kv_heads=1, head_size=48, width=32,
                                    context_length=1024)),
    ("q4_0", AMPERE, TinyLlama(heads=4, kv_heads=4, head_size=32, width=32, context_length=1024)),
)  # fmt: skip
"""Types of keys and values, cards, models."""


def real_ptx(
    kernels: list[Kernel], capability: tuple[int, int], progress: object = None
) -> dict[Kernel, str]:
    """The PTX for a card, of the cache of the tests."""
    tier = tier_of_card(*capability)
    assert tier is not None
    found = compiled(tier.name, [kernel.name for kernel in kernels])
    return {kernel: found[kernel.name].decode("ascii") for kernel in kernels}


def installed(double: PtxDouble, monkeypatch: pytest.MonkeyPatch) -> PtxDouble:
    """Have the double be the machine's driver."""
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(double)))
    monkeypatch.setattr(card_device, "ptx_of", real_ptx)
    return double


@pytest.mark.parametrize(
    ("kv_type", "capability", "model"),
    [DEFAULT, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)],
)
def test_a_text_is_the_cpus(
    kv_type: str,
    capability: tuple[int, int],
    model: TinyLlama,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt over several pages, its text, a fork of it and what comes next."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    double = installed(PtxDouble(FakeCard(capability=capability)), monkeypatch)
    on_cpu, on_card = (
        texts(path, kv_type, attention, PROMPT, (3, 4), num_tokens=4)
        for attention in ("cpu", "cuda")
    )
    assert (double.violations, double.leaks) == ([], {})
    assert on_card == on_cpu
    families = {name.split("_")[2] for name in {launch.name for launch in double.launches}}
    assert families >= {"few", "many"}


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 100])
def test_sequences_share_steps(
    window: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, a few tokens and single ones of several texts, in one step, are each as alone."""
    model = TinyLlama(heads=6, kv_heads=2, head_size=64, width=32, layers=2,
                      context_length=1024, sliding_window=window)  # fmt: skip
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    double = installed(PtxDouble(), monkeypatch)
    prompts = [TOKENS[:5], TOKENS[:140], TOKENS[7:20], [3]]
    with engine_on(path) as engine:
        caches = [engine.new_cache() for _ in prompts]
        for parts in (prompts, [[9], [4, 5], [6] * 12, [7]]):
            works = [engine.work(part, cache) for part, cache in zip(parts, caches, strict=True)]
            while left := [work for work in works if not work.is_over]:
                engine.scheduler.run_any(left)
        found = [work.result(288) for work in works]
        assert all(map(is_on_card, caches))
    for logits, prompt, part in zip(found, prompts, parts, strict=True):
        alone = expected(path, [prompt, part])[1]
        np.testing.assert_allclose(logits, alone, rtol=0, atol=0.02)
    assert (double.violations, double.leaks) == ([], {})
