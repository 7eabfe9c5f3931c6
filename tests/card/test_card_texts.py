"""Whole texts over a card that is a test double, with the kernels' own source in its CPU form.

No card is behind it. The texts are those of the CPU's attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from doubles.cuda_double import CudaDouble
from doubles.fake_cuda import FakeCard
from doubles.naive_card import stub_ptx
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.cuda import cards
from edgellama.cuda.driver import Driver
from edgellama.cuda.layouts import count_tiles
from edgellama.engine.card import device as card_device
from edgellama.engine.card import splits

PROMPT = [1, *(7 * number % 250 for number in range(260))]
MORE = [*range(3, 23)]
SHAPES = {
    "f16": TinyLlama(heads=6, kv_heads=2, head_size=64, width=32, context_length=1024),
    "f32": TinyLlama(heads=4, kv_heads=2, head_size=16, width=32, context_length=1024),
    "q8_0": TinyLlama(heads=9, kv_heads=1, head_size=48, width=32, context_length=1024),
    "q4_0": TinyLlama(heads=4, kv_heads=4, head_size=32, width=32, context_length=1024),
}
"""By type of keys and values; the kernels of the first are compiled by their own tests, too."""
OTHERS = [pytest.param(kv_type, marks=pytest.mark.slow) for kv_type in list(SHAPES)[1:]]


@pytest.mark.parametrize("kv_type", ["f16", *OTHERS])
def test_a_text_is_the_cpus(kv_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt over several pages, its text, a fork of it and what comes next.

    The keys before that are split.
    """
    model = write_tiny_llama(tmp_path / "tiny.gguf", SHAPES[kv_type])
    double = CudaDouble()
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(double)))
    monkeypatch.setattr(card_device, "ptx_of", stub_ptx)
    monkeypatch.setattr(splits, "SMALLEST_PREFILL_SPLIT", 128)
    on_cpu, on_card = (texts(model, kv_type, attention) for attention in ("cpu", "cuda"))
    assert on_card == on_cpu
    names = {launch.name.rpartition(f"_{kv_type}_{kv_type}")[0] for launch in double.launches}
    many = "card_attend_many_plain" if kv_type == "f32" else "card_attend_many"
    assert names >= {"card_store", "card_attend_few", many}
    group = SHAPES[kv_type].heads // SHAPES[kv_type].kv_heads
    grids = {launch.grid[0] for launch in double.launches if "many" in launch.name}
    assert 2 * count_tiles(len(MORE), group) in grids
    assert (double.violations, double.leaks) == ([], {})


def test_a_watched_card_gets_a_few_blocks_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches of prompts are several where one would take too long, and the text is the same."""
    model = write_tiny_llama(tmp_path / "tiny.gguf", SHAPES["f16"])
    double = CudaDouble(FakeCard(attributes={cards.TIME_LIMIT: 1}))
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(double)))
    monkeypatch.setattr(card_device, "ptx_of", stub_ptx)
    monkeypatch.setattr(splits, "LAUNCH_SECONDS", 5e-6)
    on_cpu, on_card = (texts(model, "f16", attention) for attention in ("cpu", "cuda"))
    assert on_card == on_cpu
    many = [launch for launch in double.launches if "many" in launch.name]
    firsts = [launch.arguments[-1] for launch in many]
    tiles = count_tiles(len(PROMPT), 3)
    assert {launch.grid[0] for launch in many} < {*range(1, tiles)}
    assert firsts[0] == 0 and firsts[1] == many[0].grid[0]
    assert (double.violations, double.leaks) == ([], {})


def test_heads_arranged_by_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen 3's norms of heads, and heads that are split in halves, are the CPU's work before."""
    double = CudaDouble()
    monkeypatch.setattr(Driver, "load", classmethod(lambda cls: cls(double)))
    monkeypatch.setattr(card_device, "ptx_of", stub_ptx)
    found = set()
    for architecture in ("qwen3", "qwen2", "llama"):
        shape = replace(SHAPES["f16"], architecture=architecture)
        model = write_tiny_llama(tmp_path / f"{architecture}.gguf", shape)
        on_cpu, on_card = (
            texts(model, "f16", attention, PROMPT[:140], MORE[:3], 6)
            for attention in ("cpu", "cuda")
        )
        assert on_card == on_cpu
        found.add(on_card[0])
    assert len(found) == 3 and double.launches
    assert (double.violations, double.leaks) == ([], {})


def texts(
    model: Path, kv_type: str, attention: str, prompt: Sequence[int] = PROMPT,
    added: Sequence[int] = MORE, num_tokens: int = 12,
) -> list[tuple[int, ...]]:  # fmt: skip
    """Greedy texts of a session, of its fork, and of the session with ``added`` tokens."""
    options = {"temperature": 0.0, "ignore_eos": True, "max_tokens": num_tokens}
    with (
        Llama(model, attention=attention, kv_type=kv_type) as llama,  # type: ignore[arg-type]
        llama.session() as session,
    ):
        found = [session.generate(prompt, **options).tokens]  # type: ignore[arg-type]
        more = [*prompt, *found[0], *added]
        with session.fork() as other:
            found.append(other.generate(more, **options).tokens)  # type: ignore[arg-type]
        return [*found, session.generate([*more, 9], **options).tokens]  # type: ignore[arg-type]
