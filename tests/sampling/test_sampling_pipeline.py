"""Stages in any order, what is said of single tokens, presets; with the kernel and without."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DOCS

from edgellama import Llama
from edgellama.generation.arguments import token_bias
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.mirostat import Mirostat
from edgellama.sampling.option_ranges import SAMPLERS
from edgellama.sampling.options import RULES, SamplingArguments, SamplingOptions
from edgellama.sampling.presets import CHAT_SAMPLING, PRESETS, merged_options
from edgellama.sampling.sampler import Sampler
from edgellama.sampling.shape_filters import keep_typical
from edgellama.sampling.stages import STAGES
from edgellama.text.tokenizer import load_tokenizer

Logits = npt.NDArray[np.float32]
PLAIN: Any = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


@functools.cache
def kernels() -> CompiledKernels:
    """The compiled code of this machine."""
    return CompiledKernels(select_tier())


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[Llama]:
    """The starter model with a small context."""
    with Llama(smollm2_path, context_length=512) as llama:
        yield llama


@st.composite
def any_options(draw: st.DrawFn) -> dict[str, Any]:
    """Options of all kinds, each off or on, and the stages in any order, some left out."""
    order = draw(st.permutations(SAMPLERS))
    chosen: dict[str, Any] = {
        "seed": draw(st.integers(0, 2**32)),
        "samplers": order[: draw(st.integers(0, len(order)))],
    }
    values: dict[str, list[Any]] = {
        "temperature": [0.3, 1.0, 1.7],
        "top_k": [0, 3, 40],
        "top_p": [1.0, 0.7],
        "min_p": [0.0, 0.1],
        "typical_p": [1.0, 0.6],
        "top_n_sigma": [0.0, 1.5],
        "xtc_probability": [0.0, 0.5, 1.0],
        "xtc_threshold": [0.01, 0.1],
        "dynatemp_range": [0.0, 0.4],
        "repeat_penalty": [1.0, 1.3],
        "frequency_penalty": [0.0, 0.5],
        "dry_multiplier": [0.0, 0.8],
        "mirostat": [0, 0, 0, 1, 2],
    }
    chosen |= {name: draw(st.sampled_from(found)) for name, found in values.items()}
    return chosen


@settings(deadline=None, max_examples=60)
@given(any_options(), st.integers(0, 2**32), st.sampled_from([1, 3, 70, 2000]))
def test_the_kernel_changes_no_token(options: dict[str, Any], seed: int, size: int) -> None:
    """In any order of any stages, tokens are those of the pure functions, and possible ones."""
    rng = np.random.default_rng(seed)
    rows = rng.gumbel(0, rng.choice([0.1, 2.0, 6.0]), (8, size)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = -np.inf
    rows[:, 0] = 0.0
    made = SamplingOptions(**options)
    pure, fast, asked = Sampler(made), Sampler(made, kernels()), Sampler(made)
    tokens: list[int] = []
    for row in rows:
        token = pure(row, tokens)
        assert fast(row, tokens) == token
        if not options["xtc_probability"] and not options["mirostat"]:
            chances = asked.chances(row, tokens)
            assert chances[token] > 0
            assert chances.sum() == pytest.approx(1)
        assert row[token] > -np.inf
        tokens.append(token)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.floats(0.01, 0.99),
    st.sampled_from([0.0, 0.5, 2.0, 9.0]),
    st.booleans(),
)
def test_typical_tokens_are_those_of_a_plain_sort(
    seed: int, mass: float, spread: float, is_rounded: bool
) -> None:
    """However many tokens there are, and however many equal each other."""
    rng = np.random.default_rng(seed)
    logits = rng.gumbel(0, spread, int(rng.choice([5, 1500, 20_000]))).astype(np.float32)
    logits = np.round(logits) if is_rounded else logits
    chances = np.exp(logits.astype(np.float64) - logits.max())
    chances /= chances.sum()
    surprises = -np.log(chances)
    order = np.argsort(np.abs(surprises - (chances * surprises).sum()), kind="stable")
    count = int(np.searchsorted(np.cumsum(chances[order]), mass, side="right")) + 1
    kept = keep_typical(logits, mass)
    # Numbers at the border may round either way.
    assert abs(len(kept) - count) <= 1 or is_rounded
    assert chances[kept].sum() >= mass - 1e-6
    if not is_rounded:
        assert len(np.setdiff1d(kept, order[: count + 1])) == 0


def test_a_stage_that_is_not_named_is_off() -> None:
    """Without its name among the samplers, no option of a stage does anything."""
    logits = np.array([3.0, 2.0, 1.0, 0.0], np.float32)
    strange: Any = {
        "top_k": 1,
        "top_p": 0.1,
        "min_p": 0.9,
        "temperature": 0.2,
        "repeat_penalty": 3.0,
        "typical_p": 0.1,
        "top_n_sigma": 0.1,
        "xtc_probability": 1.0,
        "dry_multiplier": 2.0,
    }
    chances = Sampler(SamplingOptions(**strange, samplers=())).chances(logits, [0, 1, 0])
    np.testing.assert_allclose(chances, Sampler(SamplingOptions(**PLAIN)).chances(logits, []))


def test_every_stage_has_its_place() -> None:
    """What users may order is what there is, in the usual order."""
    assert tuple(STAGES) == SAMPLERS


def test_the_order_is_the_users() -> None:
    """Temperature before min-p lets more tokens through than after it, if it flattens."""
    logits = np.array([4.0, 2.0, 0.0], np.float32)
    options = {**PLAIN, "temperature": 4.0, "min_p": 0.3}
    for samplers, kept in ((("temperature", "min_p"), 3), (("min_p", "temperature"), 1)):
        sampler = Sampler(SamplingOptions(**options, samplers=samplers))
        assert np.count_nonzero(sampler.chances(logits, [])) == kept


@given(st.integers(0, 3), st.booleans())
def test_a_text_does_not_end_before_min_tokens(min_tokens: int, ignore_eos: bool) -> None:
    """End tokens cannot be chosen until there are so many; with ignore_eos never."""
    options = SamplingOptions(temperature=0, min_tokens=min_tokens, ignore_eos=ignore_eos)
    sampler = Sampler(options, end_tokens={1}, prompt_length=2)
    logits = np.array([1.0, 9.0, 0.5], np.float32)
    history = [5, 5]
    for _ in range(5):
        history.append(sampler(logits, history))
    assert history[2:] == [0 if ignore_eos or n < min_tokens else 1 for n in range(5)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9, 1e9])
@pytest.mark.parametrize("samplers", [("temperature",), ("temperature", "min_p")])
def test_extreme_temperatures(temperature: float, samplers: Any) -> None:
    """The smallest leave the likeliest token, the largest all that are possible; no warning."""
    logits = np.array([1.0, -np.inf, 3.0, 2.0], np.float32)
    wanted = PLAIN | {"temperature": temperature, "samplers": samplers}
    sampler = Sampler(SamplingOptions(**wanted, seed=1))
    chosen = {sampler(logits, []) for _ in range(40)}
    assert chosen == ({2} if temperature < 1 else {0, 2, 3})


def test_a_bias_is_added_before_everything() -> None:
    """It changes the likeliest token, and minus infinity forbids one in all stages."""
    logits = np.array([1.0, 0.5, 0.0], np.float32)
    greedy = SamplingOptions(temperature=0)
    assert Sampler(greedy, bias={1: 0.6})(logits, []) == 1
    assert Sampler(greedy, bias={0: -math.inf})(logits, []) == 1
    assert Sampler(greedy, bias={0: -math.inf})(logits, [], np.array([True, False, True])) == 2
    chances = Sampler(SamplingOptions(**PLAIN), bias={0: -math.inf, 2: 0.5}).chances(logits, [])
    np.testing.assert_allclose(chances, [0, 0.5, 0.5])
    with pytest.raises(InvalidOptionError, match="no token is left"):
        Sampler(greedy, bias=dict.fromkeys(range(3), -math.inf))(logits, [])


def test_xtc_leaves_no_masked_token_alone() -> None:
    """Where every probability is enough, the least likely is still one that may be chosen."""
    logits = np.array([-np.inf, 3.0, 1.0, 2.0, -np.inf], np.float32)
    wanted = SamplingOptions(**PLAIN, xtc_probability=1.0, xtc_threshold=0.0, seed=1)
    allowed = np.array([True, True, False, True, True])
    for bias, mask, left in (({}, None, 2), ({2: -math.inf}, None, 3), ({}, allowed, 3)):
        assert Sampler(wanted, bias=bias)(logits, [], mask) == left
    only = np.arange(5) == 1
    assert Sampler(wanted)(logits, [], only) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_reaches_its_surprise(version: int) -> None:
    """Over many tokens the mean surprise is what was asked for, in bits."""
    rng = np.random.default_rng(0)
    options = SamplingOptions(mirostat=version, mirostat_tau=3.0, mirostat_eta=0.1)
    sampler = Sampler(SamplingOptions(**PLAIN, mirostat=version, mirostat_tau=3.0, seed=1))
    surprises = []
    for _ in range(400):
        logits = rng.gumbel(0, 1.5, 500).astype(np.float32)
        token = sampler(logits, [])
        surprises.append(math.log2(np.exp(logits - logits[token]).sum()))
    assert np.mean(surprises[100:]) == pytest.approx(3.0, abs=0.7)
    assert Mirostat(options).limit_bits == 6.0


def test_presets_stand_in_for_what_was_said_before() -> None:
    """Later words win over a preset, earlier ones do not, except those about single tokens."""
    earlier: dict[str, Any] = {**CHAT_SAMPLING, "seed": 3, "max_tokens": 5}
    assert merged_options(earlier, {"preset": "llama.cpp"}) == {"seed": 3, "max_tokens": 5}
    merged = merged_options(earlier, {"preset": "ollama", "min_p": 0.2})
    assert merged == {**PRESETS["ollama"], "min_p": 0.2, "seed": 3, "max_tokens": 5}
    assert merged_options({"preset": "chat"}) == CHAT_SAMPLING
    with pytest.raises(InvalidOptionError, match=r"preset is 'best'; allowed: llama.cpp, chat"):
        merged_options({"preset": "best"})
    for options in PRESETS.values():
        SamplingOptions(**options)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=12),
    st.lists(st.integers(0, 5), max_size=12),
    st.lists(st.integers(0, 5), max_size=12),
)
def test_penalties_spare_a_prompt(prompt: list[int], own: list[int], text: list[int]) -> None:
    """Without the prompt penalties and DRY choose as if what the model said stood in its place."""
    amounts: Any = {
        "temperature": 0,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.7,
        "dry_multiplier": 2.0,
        "dry_allowed_length": 1,
        "repeat_last_n": 8,
    }
    logits = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], dtype=np.float32)
    options = SamplingOptions(**amounts, penalize_prompt=False)
    sparing = Sampler(options, prompt_length=len(prompt), own_tokens=own)
    counting = Sampler(SamplingOptions(**amounts))
    assert sparing(logits, [*prompt, *text]) == counting(logits, [*own, *text])


def test_every_option_is_an_argument_and_explained() -> None:
    """SamplingArguments has the fields of SamplingOptions, page and docstring have their words."""
    assert [*RULES, "preset"] == list(SamplingArguments.__annotations__)
    page = (DOCS / "sampling.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    words = " ".join((inspect.getdoc(SamplingOptions) or "").split())
    for name, rule in RULES.items():
        assert rule.text in rows[name], name
        assert f"{name}: {rule.text} Allowed: " in words
        if isinstance(rule.default, (int, float)):
            assert f"| {rule.default} |" in rows[name]
    assert all(f"`{name}`" in page for name in PRESETS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", math.nan),
        ("typical_p", 0.0),
        ("top_n_sigma", math.inf),
        ("xtc_probability", 1.1),
        ("xtc_threshold", -0.1),
        ("dynatemp_range", -1),
        ("dynatemp_exponent", math.inf),
        ("mirostat", 3),
        ("mirostat", True),
        ("mirostat_tau", -1.0),
        ("samplers", "top_k"),
        ("samplers", ["top_k", "top_k"]),
        ("samplers", ["magic"]),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: 1e300}),
        ("frequency_penalty", -1e300),
        ("logit_bias", {1: True}),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {"": 0.0}),
        ("logit_bias", {1.5: 0.0}),
        ("logit_bias", [1, 2]),
        ("logit_bias", 3),
        ("min_tokens", -1),
        ("ignore_eos", 1),
        ("ignore_eos", None),
    ],
)
def test_options_outside_their_ranges_are_refused(name: str, value: Any) -> None:
    """The error names the option, the value and what is allowed."""
    with pytest.raises(InvalidOptionError, match=rf"{name} is .*allowed: "):
        SamplingOptions(**{name: value})


def test_biases_by_text(smollm2: Llama) -> None:
    """A text stands for the token that is just it; another one is refused with its tokens."""
    prompt: Any = "The capital of France is"
    greedy: Any = {"temperature": 0, "max_tokens": 1}
    assert smollm2.generate(prompt, **greedy).text == " Paris"
    for bias in ({" Paris": False}, [(" Paris", -99.0)], {7042: -math.inf}):
        assert smollm2.generate(prompt, logit_bias=bias, **greedy).text != " Paris"
    with pytest.raises(InvalidOptionError, match=r"' Parisian' in logit_bias is the tokens \["):
        smollm2.generate(prompt, logit_bias={" Parisian": 1.0})
    with pytest.raises(InvalidOptionError, match=r"token 99999 in logit_bias; allowed: 0 to"):
        smollm2.generate(prompt, logit_bias={99999: 1.0})
    with pytest.raises(InvalidOptionError, match=r"logit_bias"):
        list(smollm2.generate_batch([prompt], logit_bias={99999: 1.0}))


def test_texts_with_and_without_a_space_are_other_tokens() -> None:
    """In a SentencePiece vocabulary, which puts a space before a first word by itself, too."""
    pieces = ["\u2581", *"Paris", "\u2581P", "ar", "is", "Par", "\u2581Par", "Paris", "\u2581Paris"]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    tokenizer = load_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": texts,
            "tokenizer.ggml.scores": [float(number) for number in range(len(texts))],
            "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        }
    )
    bias: dict[int | str, float | bool] = {"Paris": 1.0, " Paris": False, "</s>": 2, "\n": 3, 5: 1}
    assert token_bias(tokenizer, bias) == {
        texts.index("Paris"): 1,
        texts.index("\u2581Paris"): -math.inf,
        2: 2,
        3 + 10: 3,
        5: 1,
    }
    with pytest.raises(InvalidOptionError, match=r"'Pa' in logit_bias is the tokens \["):
        token_bias(tokenizer, {"Pa": 1.0})


def test_min_tokens_of_a_text(smollm2: Llama) -> None:
    """A chat that would answer in a few tokens goes on, and the preset of a chat holds."""
    with smollm2.chat(temperature=0, preset="llama.cpp") as chat:
        assert "repeat_penalty" not in chat.options
        short = chat.send("Say hi.")
        assert short.finish_reason == "stop"
        count = len(short.tokens) + 5
        longer = chat.regenerate(min_tokens=count, max_tokens=2 * count).wait()
        assert len(longer.tokens) >= count
        endless = chat.regenerate(ignore_eos=True, max_tokens=2 * count).wait()
        assert (len(endless.tokens), endless.finish_reason) == (2 * count, "length")


def test_stop_strings_before_min_tokens(smollm2: Llama) -> None:
    """A stop string among the first tokens is text like any other; a later one ends it."""
    prompt = "One, two, three,"
    options: Any = {"temperature": 0, "max_tokens": 20, "stop": ","}
    first = smollm2.generate(prompt, **options)
    assert (first.text, first.finish_reason) == (" four", "stop")
    later = smollm2.generate(prompt, min_tokens=3, **options)
    assert later.text.count(",") == 1
    assert later.finish_reason == "stop"
