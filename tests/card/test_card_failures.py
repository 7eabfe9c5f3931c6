"""A model on a card whose driver is difficult: an error of ours, or the text.

Whichever call fails, and where the card has other addresses than the computer. The driver is a test
double, and its kernels are naive ones.
"""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doubles import naive_card
from doubles.fake_cuda import FakeCuda
from doubles.fake_library import ILLEGAL_ADDRESS, INVALID_VALUE
from doubles.fake_modules import Launch
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.cuda.driver import OUT_OF_MEMORY, Driver
from edgellama.cuda.signatures import CARD_KERNELS, CARD_SIGNATURES
from edgellama.engine.card import device as card_device
from edgellama.engine.card.choice import AttentionMode
from edgellama.quant.errors import CudaError

SHAPE = TinyLlama(heads=4, kv_heads=2, head_size=8, width=32, context_length=512)
PROMPT = [1, *range(5, 150)]


def texts(model: Path, attention: AttentionMode) -> list[tuple[int, ...]]:
    """Greedy tokens of a session's prompt, and of what it says next."""
    found: list[tuple[int, ...]] = []
    with Llama(model, attention=attention) as llama, llama.session() as session:
        for prompt in (PROMPT, None):
            tokens = prompt or [*PROMPT, *found[0], 7]
            result = session.generate(tokens, max_tokens=3, temperature=0, ignore_eos=True)
            found.append(result.tokens)
    return found


APART = 1 << 52
"""More than any address of the computer's."""


class FarCuda(FakeCuda):
    """Shows the computer's memory to the card at addresses of its own, as Windows does."""

    def _cuMemHostGetDevicePointer(self, device_address: Any, address: int, flags: int) -> int:
        code = super()._cuMemHostGetDevicePointer(device_address, address, flags)
        device_address[0] += APART
        return code

    def run_here(self, launch: Launch) -> None:
        """Run a kernel, all of whose rows must be at addresses of the card's."""
        names, found = CARD_SIGNATURES[CARD_KERNELS[launch.name]].parameters, []
        for name, value in zip(names, launch.arguments, strict=True):
            is_staged = self._holds(self.device_memory, int(value), 1)
            is_shown = name in ("q", "k", "v", "y") and not is_staged
            assert not is_shown or value > APART, name
            found.append(value - APART if is_shown else value)
        naive_card.run(replace(launch, arguments=tuple(found)))


def test_the_card_may_have_other_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels get no address of the computer's."""
    model, fake = write_tiny_llama(tmp_path / "tiny.gguf", SHAPE), FarCuda()
    fake.run = fake.run_here
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(fake)))
    monkeypatch.setattr(card_device, "ptx_of", naive_card.stub_ptx)
    assert texts(model, "cuda") == texts(model, "cpu")
    assert fake.launches
    assert (fake.violations, fake.leaks) == ([], {})


@pytest.mark.slow
@pytest.mark.parametrize("code", [INVALID_VALUE, OUT_OF_MEMORY, ILLEGAL_ADDRESS])
def test_any_call_may_fail(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, a middle and the last call of every function, one at a time."""
    model = write_tiny_llama(tmp_path / "tiny.gguf", SHAPE)
    doubles = [FakeCuda(run=naive_card.run)]
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(doubles[-1])))
    monkeypatch.setattr(card_device, "ptx_of", naive_card.stub_ptx)
    expected = texts(model, "cpu")
    assert texts(model, "cuda") == expected
    for name, count in Counter(doubles[0].calls).items():
        for at in sorted({1, (count + 1) // 2, count}):
            doubles.append(FakeCuda(run=naive_card.run))
            doubles[-1].fail(name, code, at)
            try:
                assert texts(model, "cuda") == expected, (name, at)
            except CudaError as error:
                assert str(error), (name, at)
    gc.collect()
    assert [double.violations for double in doubles] == [[]] * len(doubles)
    # What the driver would not take back cannot be given back.
    assert max(sum(double.leaks.values()) for double in doubles) <= 1
