"""What the engine computes: against NumPy, and the same bits however the work is cut."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import naive_kernels as naive
from harness.caches import CACHE_KERNELS, OTHER_KERNELS
from harness.kernels import TIERS, formats, runner_of, tier_name
from reference.numpy_llama import NumpyLlama
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.usual_kernels import (
    USUAL_CACHE_TYPES,
    USUAL_FORMATS,
    USUAL_GROUPS,
    kernels_for,
    usual_kernels,
)
from edgellama.kernels_cpu.machine.cpu import GENERIC, SSE4, Tier, available_tiers
from edgellama.kernels_cpu.sampling.chooser import CHOICE_KERNEL
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS
from edgellama.quant.errors import ContextLengthError, InvalidOptionError
from edgellama.quant.formats import FLOAT_FORMATS, QUANTIZED_FORMATS
from edgellama.quant.gguf.file import GGUFFile

FORMATS = QUANTIZED_FORMATS + FLOAT_FORMATS
SHAPES = {
    "gqa": TinyLlama(),
    "mha": TinyLlama(heads=4, kv_heads=4),
    "tied": TinyLlama(tied=True),
    "biases": TinyLlama(biases=True, heads=2, kv_heads=1),
    "head_80": TinyLlama(width=160, heads=2, kv_heads=1),
    "head_96": TinyLlama(width=96, heads=3, kv_heads=3, head_size=96),
    "head_100": TinyLlama(width=200, heads=2, kv_heads=2, rope_freqs=True),
    "head_128": TinyLlama(heads=9, kv_heads=1, head_size=128),
    "head_norms": TinyLlama(architecture="qwen3", head_size=24, tied=True),
    "half_split": TinyLlama(architecture="qwen2", heads=2, kv_heads=1, biases=True),
    "odd_widths": TinyLlama(width=36, heads=3, kv_heads=1, feed_forward=44, vocab_size=291),
    "one_layer": TinyLlama(layers=1, feed_forward=4),
}
WIDE = TinyLlama(width=256, heads=4, kv_heads=2, feed_forward=512, layers=2, vocab_size=300)
Prompt = list[int]
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module", params=TIERS[:1], ids=tier_name)
def tier(request: pytest.FixtureRequest) -> Tier:
    """The fastest tier, all kernels compiled in one go; the others are the kernels' tests' task."""
    runner_of(request.param).preload([*OTHER_KERNELS, *CACHE_KERNELS])
    return request.param


@pytest.fixture
def make_engine(tier: Tier, tmp_path: Path) -> Iterator[MakeEngine]:
    """Engines over tiny models, closed at the end."""
    engines: list[Engine] = []

    def make(model: TinyLlama, num_threads: int = 2) -> Engine:
        engine = Engine(model_file(tmp_path, model), num_threads=num_threads, tier=tier.name)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def model_file(folder: Path, model: TinyLlama) -> GGUFFile:
    """The model as a file, written once."""
    path = folder / f"{abs(hash(repr(model)))}.gguf"
    return GGUFFile(path if path.exists() else write_tiny_llama(path, model))


def prompt(length: int, seed: int = 0, vocab_size: int = 288) -> Prompt:
    """Reproducible token ids."""
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()


def all_logits(engine: Engine, tokens: Prompt, sizes: list[int], kv_type: str) -> naive.Array:
    """Logits of every token when the steps have the given sizes."""
    cache, start, rows = engine.new_cache(len(tokens), kv_type=kv_type), 0, []
    for size in sizes:
        rows.append(engine.forward(tokens[start : start + size], cache, logits="all"))
        start += size
    assert start == len(tokens) == cache.length
    return np.concatenate(rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_float_models(make_engine: MakeEngine, tmp_path: Path, shape: str) -> None:
    """Long and short steps over an F32 model give NumPy's logits, for shapes of every kind."""
    model, tokens = SHAPES[shape], prompt(30)
    expected = NumpyLlama(model_file(tmp_path, model)).forward(tokens)
    engine = make_engine(model)
    for sizes in ([30], [20, 4, 3, 2, 1], [1] * 30):
        logits = all_logits(engine, tokens, sizes, "f32")
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", formats(FORMATS))
def test_formats(make_engine: MakeEngine, tmp_path: Path, name: str) -> None:
    """Models of each format are near NumPy's logits; what int8 activations cost is little."""
    model = dataclasses.replace(WIDE, weight_format=name)
    tokens = prompt(40)
    expected = NumpyLlama(model_file(tmp_path, model)).forward(tokens)
    engine = make_engine(model)
    allowed = 0.03 if name in QUANTIZED_FORMATS else 0.002
    for sizes in ([40], [36, 4], [10] * 4):
        logits = all_logits(engine, tokens, sizes, "f16")
        error = np.sqrt(((logits - expected) ** 2).mean() / (expected**2).mean())
        assert error < allowed


@pytest.mark.parametrize("name", ["Q4_K", "F16"])
def test_warm_up_leaves_nothing_out(make_engine: MakeEngine, name: str) -> None:
    """An engine asks for no kernel that a warm-up without a model has not compiled."""
    engine = make_engine(dataclasses.replace(WIDE, weight_format=name))
    assert engine.usual_kernels() <= set(kernels_for())


def test_kernels_of_layers_of_several_forms(make_engine: MakeEngine) -> None:
    """Kernels asked for beforehand are those that steps of any size call, whatever the layers."""
    formats = {"1.attn_v": "Q6_K", "2.ffn_down": "F16", "output": "Q8_0"}
    engine = make_engine(dataclasses.replace(WIDE, layers=4, weight_format="Q4_0", formats=formats))
    called = {op.kernel.name for count in (*range(1, 10), 99) for op in engine.step_ops(count)}
    usual = engine.usual_kernels()
    assert {"gemv_Q6_K", "gemm_F16", "gemv_Q8_0"} <= called <= usual
    # Texts of a prompt attend in another way than those of several sequences; guesses are checked
    # by kernels with the bits of single steps.
    others = {name for name in usual if re.match(r"attention_|gemv_\w+_[48]$", name)}
    assert usual - called <= {*ENTRY_KERNELS, CHOICE_KERNEL, *others}


@pytest.mark.parametrize(
    ("group", "kv_type"),
    [
        pytest.param(group, kv_type, marks=[pytest.mark.slow] * (group < 8 and kv_type != "f16"))
        for group in USUAL_GROUPS
        for kv_type in USUAL_CACHE_TYPES
    ],
)
def test_usual_models_need_usual_kernels(
    group: int, kv_type: str, tier: Tier, tmp_path: Path
) -> None:
    """A usual model with a usual cache asks for no kernel but those compiled the first time."""
    usual, name = set(usual_kernels()), USUAL_FORMATS[group % len(USUAL_FORMATS)]
    for output in USUAL_FORMATS:
        model = dataclasses.replace(
            WIDE, heads=8, kv_heads=8 // group or 1, weight_format=name,
            formats={"output": output},
        )  # fmt: skip
        if group == 3:
            model = dataclasses.replace(model, heads=3, kv_heads=1, head_size=64)
        with Engine(model_file(tmp_path, model), tier=tier.name, kv_type=kv_type) as engine:
            assert engine.usual_kernels() <= usual


def test_mixed_formats(make_engine: MakeEngine, tmp_path: Path) -> None:
    """Every matrix of a layer may have a format of its own."""
    formats = {
        "token_embd": "Q6_K", "output": "Q8_0", "attn_q": "Q4_K", "attn_k": "F16",
        "attn_v": "Q6_K", "attn_output": "BF16", "ffn_gate": "F32", "ffn_up": "Q4_0",
        "ffn_down": "Q4_1",
    }  # fmt: skip
    model, tokens = dataclasses.replace(WIDE, formats=formats), prompt(20)
    expected = NumpyLlama(model_file(tmp_path, model)).forward(tokens)
    engine = make_engine(model)
    for sizes in ([20], [4] * 5):
        logits = all_logits(engine, tokens, sizes, "f32")
        error = np.sqrt(((logits - expected) ** 2).mean() / (expected**2).mean())
        assert error < 0.03


@pytest.mark.parametrize("name", formats(FORMATS))
def test_threads_do_not_change_a_bit(make_engine: MakeEngine, name: str) -> None:
    """Logits are bit-identical on 1, 2, 3 and 5 threads, in long steps and in short ones."""
    model, tokens = dataclasses.replace(WIDE, weight_format=name), prompt(150)
    sizes = [130, 4, 3, 2, *[1] * 11]
    expected = all_logits(make_engine(model, 1), tokens, sizes, "f16")
    for num_threads in (2, 3, 5):
        logits = all_logits(make_engine(model, num_threads), tokens, sizes, "f16")
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("name", formats(FORMATS))
def test_small_batches_do_not_change_a_bit(make_engine: MakeEngine, name: str) -> None:
    """A token's logits are the same whatever tokens stand beside it in a step of 2 to 12."""
    engine = make_engine(dataclasses.replace(WIDE, weight_format=name))
    tokens = prompt(28)
    expected = all_logits(engine, tokens, [16, 12], "f16")
    for sizes in ([16, 4, 4, 4], [16, 3, 2, 4, 3], [16, 2, 7, 3]):
        np.testing.assert_array_equal(all_logits(engine, tokens, sizes, "f16"), expected)


@pytest.mark.slow
@pytest.mark.skipif(SSE4 not in available_tiers(), reason="x86-64 only")
@pytest.mark.parametrize("name", ["Q4_1", "Q4_K", "Q6_K", "Q8_0", "F16"])
def test_sse4_computes_the_bits_of_generic(tmp_path: Path, name: str) -> None:
    """Tiers of equally many lanes differ in instructions alone: logits have the same bits."""
    model, logits = dataclasses.replace(WIDE, weight_format=name), []
    for tier in (SSE4, GENERIC):
        with Engine(model_file(tmp_path, model), num_threads=2, tier=tier.name) as engine:
            logits.append(all_logits(engine, prompt(40), [30, 1, 3, 6], "f16"))
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("name", formats(FORMATS))
def test_one_token_and_a_few(make_engine: MakeEngine, name: str) -> None:
    """A token alone has the logits that it has in a small batch, but for roundings.

    Those of sums of f32 now and then change how an activation is rounded to eight bits.
    """
    engine = make_engine(dataclasses.replace(WIDE, weight_format=name))
    tokens = prompt(28)
    alone, together = (
        all_logits(engine, tokens, sizes, "f32") for sizes in ([16, *[1] * 12], [16, 4, 4, 4])
    )
    assert ((alone - together) ** 2).mean() <= 1e-2**2 * (together**2).mean()


def test_long_prompt(make_engine: MakeEngine, tmp_path: Path) -> None:
    """A prompt of 1100 tokens, more than two steps, gives NumPy's logits at every position."""
    model = TinyLlama(layers=2, context_length=1100)
    tokens = prompt(1100)
    expected = NumpyLlama(model_file(tmp_path, model)).forward(tokens)
    engine = make_engine(model)
    told: list[tuple[int, int]] = []
    cache = engine.new_cache(kv_type="f32")
    logits = engine.forward(
        tokens, cache, logits="all", progress=lambda *counts: told.append(counts)
    )
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-4)
    assert [done for done, _ in told] == [512, 1024, 1100]
    last = engine.forward(tokens, engine.new_cache(kv_type="f32"))
    np.testing.assert_allclose(last, expected[-1:], rtol=0, atol=2e-4)


def test_wide_models_take_shorter_steps(make_engine: MakeEngine) -> None:
    """A model whose rows are very wide is given its tokens in steps of half as many, or fewer."""
    engine = make_engine(TinyLlama(layers=1, feed_forward=80_000))
    cache, told = engine.new_cache(300), []
    engine.forward(prompt(300), cache, progress=lambda done, total: told.append((done, total)))
    assert told == [(128, 300), (256, 300), (300, 300)]


def test_pieces(make_engine: MakeEngine) -> None:
    """However a prompt is cut into steps, its logits agree within rounding."""
    engine, tokens = make_engine(TinyLlama()), prompt(200)
    whole = all_logits(engine, tokens, [200], "f32")
    for sizes in ([199, 1], [1, 199], [100, 100], [5, 6, 7, 4, 3, 31, 33, 111]):
        pieces = all_logits(engine, tokens, sizes, "f32")
        np.testing.assert_allclose(pieces, whole, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("kv_type", "allowed"), [("q8_0", 0.02), ("bf16/q4_0", 0.2)])
def test_cache_types(make_engine: MakeEngine, tmp_path: Path, kv_type: str, allowed: float) -> None:
    """A long context in a small cache stays near NumPy's logits, and near itself however cut.

    The keys of the last tokens are split among threads; their number does not change a bit.
    """
    model = dataclasses.replace(WIDE, context_length=1100)
    tokens = prompt(1100)
    expected = NumpyLlama(model_file(tmp_path, model)).forward(tokens)
    sizes = [512, 300, 200, 70, 4, 4, 3, 2, *[1] * 5]
    logits = [all_logits(make_engine(model, n), tokens, sizes, kv_type) for n in (1, 2, 3)]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])
    error = np.sqrt(((logits[0] - expected) ** 2).mean() / (expected**2).mean())
    assert error < allowed
    other = all_logits(make_engine(model), tokens, [1, 510, 4, 500, 85], kv_type)
    assert np.sqrt(((other - logits[0]) ** 2).mean() / (expected**2).mean()) < allowed / 10


def test_usual_cache_type(tier: Tier, tmp_path: Path) -> None:
    """Caches have the type that the engine was made for, unless another is asked for."""
    file = model_file(tmp_path, WIDE)
    with Engine(file, num_threads=1, tier=tier.name, kv_type=("q8_0", "q8_0")) as engine:
        assert str(engine.new_cache(8).layout.types) == "q8_0"
        assert str(engine.new_cache(8, kv_type="bf16/q4_0").layout.types) == "bf16/q4_0"
    with pytest.raises(InvalidOptionError, match="KV type 'q8'"):
        Engine(file, num_threads=1, kv_type="q8")


def test_truncate(make_engine: MakeEngine) -> None:
    """After forgetting tokens, fewer others in their place give what a fresh cache gives."""
    engine, tokens = make_engine(TinyLlama()), prompt(60)
    other = prompt(25, seed=1)
    cache, fresh = engine.new_cache(60), engine.new_cache(60)
    for used in (cache, fresh):
        engine.forward(tokens[:25], used, logits="none")
    engine.forward(tokens[25:], cache)
    cache.truncate(25)
    again = engine.forward(other, cache, logits="all")
    np.testing.assert_array_equal(engine.forward(other, fresh, logits="all"), again)
    cache.truncate(0)
    np.testing.assert_array_equal(
        engine.forward(tokens, cache), engine.forward(tokens, engine.new_cache(60))
    )


def test_caches_are_independent(make_engine: MakeEngine) -> None:
    """Two sequences whose steps alternate, with caches of other lengths, do not mix."""
    engine = make_engine(TinyLlama())
    first, second = prompt(40, 1), prompt(40, 2)
    expected = [all_logits(engine, tokens, [10] * 4, "f16") for tokens in (first, second)]
    caches = [engine.new_cache(40), engine.new_cache(77)]
    rows: list[list[naive.Array]] = [[], []]
    for start in range(0, 40, 10):
        for i, tokens in enumerate((first, second)):
            step = engine.forward(tokens[start : start + 10], caches[i], logits="all")
            rows[i].append(step)
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate(rows[i]), expected[i])


def test_context_full(make_engine: MakeEngine) -> None:
    """Tokens beyond the context are refused with both counts, before anything is computed."""
    engine, cache = make_engine(TinyLlama()), None
    cache = engine.new_cache(10)
    engine.forward(prompt(8), cache)
    with pytest.raises(ContextLengthError, match="8 tokens and 3 more do not fit") as caught:
        engine.forward(prompt(3), cache)
    assert (caught.value.prompt_tokens, caught.value.context_length) == (11, 10)
    assert cache.length == 8
    assert engine.forward(prompt(2), cache).shape == (1, 288)
    with pytest.raises(ContextLengthError):
        engine.forward([1], cache)
    assert cache.length == cache.context_length == 10


def test_logits_choice(make_engine: MakeEngine) -> None:
    """Last, all or no logits come as new float32 arrays of one row a token."""
    engine, tokens = make_engine(TinyLlama(vocab_size=291)), prompt(9)
    caches = [engine.new_cache(20) for _ in range(3)]
    every = engine.forward(tokens, caches[0], logits="all")
    last = engine.forward(tokens, caches[1])
    none = engine.forward(tokens, caches[2], logits="none")
    assert (every.shape, last.shape, none.shape) == ((9, 291), (1, 291), (0, 291))
    assert every.dtype == last.dtype == none.dtype == np.float32
    assert all(cache.length == 9 for cache in caches)
    kept = last.copy()
    engine.forward([5], caches[1])
    np.testing.assert_array_equal(last, kept)
    np.testing.assert_allclose(every[-1], last[0], rtol=0, atol=1e-4)


def test_no_tokens(make_engine: MakeEngine) -> None:
    """A step of no tokens changes nothing and has no logits."""
    engine = make_engine(TinyLlama())
    cache = engine.new_cache(4)
    assert engine.forward([], cache).shape == (0, 288)
    assert cache.length == 0


@pytest.mark.parametrize("tokens", [[-1], [288], [3, 1 << 31], [[1, 2]], 7])
def test_wrong_tokens(make_engine: MakeEngine, tokens: naive.Any) -> None:
    """Ids outside the vocabulary, and anything but one row of ids, are refused."""
    engine = make_engine(TinyLlama())
    cache = engine.new_cache(8)
    with pytest.raises(InvalidOptionError, match=r"token"):
        engine.forward(tokens, cache)
    assert cache.length == 0
