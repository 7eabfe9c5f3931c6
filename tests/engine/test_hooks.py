"""Hooks in the middle of a step, and engines over some of the layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import InvalidOptionError, Llama
from edgellama.engine.engine import Engine
from edgellama.engine.program.hooks import HookPlace, RowHook, StepRows
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(layers=4, context_length=600)
Rows = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["Q8_0", "F32"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with quantized matrices, and one with floats."""
    folder = tmp_path_factory.mktemp("hooks")
    model = dataclasses.replace(MODEL, weight_format=request.param)
    return write_tiny_llama(folder / "tiny.gguf", model)


@pytest.fixture
def file(path: Path) -> Iterator[GGUFFile]:
    """The model's file."""
    with GGUFFile(path) as file:
        yield file


def logits_of(engine: Engine, tokens: list[int], sizes: list[int]) -> Rows:
    """Logits of all tokens in steps of these sizes."""
    cache, parts = engine.new_cache(), []
    for size in sizes:
        start = cache.length
        parts.append(engine.forward(tokens[start : start + size], cache, logits="all"))
    return np.concatenate(parts)


SIZES = ([40], [25, 5, 1, 1, 8])
TOKENS = np.random.default_rng(0).integers(0, 288, 40).tolist()


@pytest.mark.parametrize("place", ["residual", "attention", "logits"])
def test_a_hook_that_only_looks_changes_no_bit(file: GGUFFile, place: HookPlace) -> None:
    """Every token's row is seen once in each layer, and the logits stay what they are."""
    seen: list[tuple[Rows, StepRows]] = []
    hook = RowHook(lambda rows, step: seen.append((rows.copy(), step)), place)
    with Engine(file, num_threads=2) as engine:
        for sizes in SIZES:
            engine.hooks = ()
            expected = logits_of(engine, TOKENS, sizes)
            engine.hooks = (hook,)
            seen.clear()
            np.testing.assert_array_equal(logits_of(engine, TOKENS, sizes), expected)
            times = 1 if place == "logits" else MODEL.layers
            positions = np.concatenate([step.positions for _, step in seen])
            assert sorted(positions.tolist()) == sorted([*range(40)] * times)
            for rows, step in seen:
                assert len(rows) == len(step.positions)
                assert [TOKENS[i] for i in step.positions] == step.tokens.tolist()
                if place == "logits":
                    np.testing.assert_array_equal(rows, expected[step.positions])


def test_halves_give_the_bits_of_the_whole(file: GGUFFile) -> None:
    """An engine over the first layers and one over the rest do what one engine does."""
    with (
        Engine(file, num_threads=2) as whole,
        Engine(file, num_threads=2, layers=range(3)) as first,
        Engine(file, num_threads=2, layers=range(3, 4)) as last,
    ):
        for sizes in SIZES:
            caches = first.new_cache(), last.new_cache()
            parts = []
            for size in sizes:
                tokens = TOKENS[caches[0].length : caches[0].length + size]
                rows = first.forward(tokens, caches[0], logits="rows")
                parts.append(last.forward(tokens, caches[1], rows=rows, logits="all"))
            np.testing.assert_array_equal(np.concatenate(parts), logits_of(whole, TOKENS, sizes))
        assert first.pool().layout.page_bytes == 3 * last.pool().layout.page_bytes


def test_a_changed_residual_goes_on(file: GGUFFile) -> None:
    """What a hook adds after a layer is what the layers behind it begin with."""
    steering = np.random.default_rng(1).standard_normal(MODEL.width).astype(np.float32)

    def steer(rows: Rows, step: StepRows) -> None:
        rows[step.positions >= 5] += steering

    with (
        Engine(file, num_threads=2, hooks=[RowHook(steer, layers=(1,))]) as steered,
        Engine(file, num_threads=2, layers=range(2)) as first,
        Engine(file, num_threads=2, layers=range(2, 4)) as last,
    ):
        rows = first.forward(TOKENS, first.new_cache(), logits="rows")
        rows[5:] += steering
        expected = last.forward(TOKENS, last.new_cache(), rows=rows, logits="all")
        np.testing.assert_array_equal(logits_of(steered, TOKENS, [40]), expected)


def test_what_attention_reads_can_be_changed(file: GGUFFile) -> None:
    """Rows of zeros make queries, keys and values of zeros, so that only the network is left."""

    def silence(rows: Rows, step: StepRows) -> None:
        rows[:] = 0

    with Engine(file, num_threads=2, hooks=[RowHook(silence, "attention")]) as engine:
        long, short = (logits_of(engine, TOKENS, sizes) for sizes in ([40], [1] * 40))
        alone = [logits_of(engine, [token], [1])[0] for token in TOKENS]
    np.testing.assert_allclose(long, alone, rtol=0, atol=0.05)
    np.testing.assert_allclose(short, alone, rtol=0, atol=1e-5)


def test_logits_decide_the_text(path: Path) -> None:
    """A hook at the logits bans a token from all texts, until it is removed."""
    with Llama(path, num_threads=2) as llama:
        before = llama.generate("abc", max_tokens=8, temperature=0)
        banned = before.tokens[0]

        def ban(rows: Rows, step: StepRows) -> None:
            rows[:, banned] = -np.inf

        hook = llama.add_hook(ban, "logits")
        assert banned not in llama.generate("abc", max_tokens=8, temperature=0).tokens
        llama.remove_hook(hook)
        assert llama.generate("abc", max_tokens=8, temperature=0).tokens == before.tokens
        with pytest.raises(InvalidOptionError, match="no such hook"):
            llama.remove_hook(hook)


def test_texts_before_a_hook_are_not_found_after_it(path: Path) -> None:
    """Keys and values of other hooks are computed anew, and found under the same ones."""
    with Llama(path, num_threads=2, cache_limit=1 << 28) as llama:
        prompt = "p" * 300
        full = llama.generate(prompt, max_tokens=1).statistics.prefilled_tokens
        assert llama.generate(prompt, max_tokens=1).statistics.prefilled_tokens < full
        llama.add_hook(lambda rows, step: None)
        assert llama.generate(prompt, max_tokens=1).statistics.prefilled_tokens == full
        assert llama.generate(prompt, max_tokens=1).statistics.prefilled_tokens < full


def test_a_session_from_before_a_hook_is_computed_anew(path: Path) -> None:
    """A prompt in a session that has read it without the hook has the hook's text, and back."""

    def turn(rows: Rows, step: StepRows) -> None:
        rows += np.arange(rows.shape[1]) % 7

    prompt = "p" * 300
    with (
        Llama(path, num_threads=2, cache_limit=1 << 28, exact=True) as llama,
        llama.session() as session,
        llama.session() as second,
    ):
        before = session.generate(prompt, max_tokens=8, temperature=0).tokens
        second.generate(prompt[:150], max_tokens=1)
        hook = llama.add_hook(turn, layers=[0])
        expected = llama.generate(prompt, max_tokens=8, temperature=0).tokens
        assert expected != before
        for held in (session, second, session.fork()):
            assert held.generate(prompt, max_tokens=8, temperature=0).tokens == expected
        llama.remove_hook(hook)
        assert session.generate(prompt, max_tokens=8, temperature=0).tokens == before


def test_a_session_after_a_removed_hook_opens_anywhere(path: Path, tmp_path: Path) -> None:
    """Who has no hooks any more saves what another process opens, and finds its old texts."""
    prompt = "p" * 300
    with Llama(path, num_threads=2, cache_limit=1 << 28) as llama, llama.session() as session:
        llama.remove_hook(llama.add_hook(lambda rows, step: None, layers=[0]))
        tokens = session.generate(prompt, max_tokens=8, temperature=0).tokens
        session.save(tmp_path / "saved")
    with Llama(path, num_threads=2) as other, other.load_session(tmp_path / "saved") as opened:
        again = opened.generate(prompt, max_tokens=8, temperature=0)
        assert again.tokens == tokens
        assert again.usage.cached_tokens > 250


def test_an_error_in_a_hook_reaches_the_caller(path: Path) -> None:
    """What a function raises ends that text alone; without the hook all goes on."""

    def fail(rows: Rows, step: StepRows) -> None:
        raise ZeroDivisionError("in the hook")

    with Llama(path, num_threads=2) as llama:
        hook = llama.add_hook(fail, layers=[0])
        with pytest.raises(ZeroDivisionError):
            llama.generate("abc", max_tokens=2)
        llama.remove_hook(hook)
        assert llama.generate("abc", max_tokens=2).tokens


def test_wrong_hooks_and_layers(path: Path, file: GGUFFile) -> None:
    """Unknown places, layers that there are not, and rows where none belong are refused."""
    with Llama(path, num_threads=1) as llama:
        for layers in ([4], [-1]):
            with pytest.raises(InvalidOptionError, match=r"allowed: 0 to 3"):
                llama.add_hook(lambda rows, step: None, layers=layers)
    with pytest.raises(InvalidOptionError, match="allowed: residual, attention, logits"):
        RowHook(lambda rows, step: None, "nowhere")  # type: ignore[arg-type]
    for layers in (range(0), range(2, 5), range(0, 4, 2), range(-1, 2)):
        with pytest.raises(InvalidOptionError, match="layers"):
            Engine(file, layers=layers)
    with Engine(file, num_threads=1, layers=range(2)) as first:
        with pytest.raises(InvalidOptionError, match='"rows"'):
            first.forward([1], first.new_cache())
        with pytest.raises(InvalidOptionError, match="first layer"):
            first.forward([1], first.new_cache(), rows=np.zeros((1, 64), np.float32), logits="rows")
    with Engine(file, num_threads=1, layers=range(2, 4)) as last:
        for rows in (None, np.zeros((2, 64), np.float32)):
            with pytest.raises(InvalidOptionError, match=r"shape \(1, 64\)"):
                last.forward([1], last.new_cache(), rows=rows)
