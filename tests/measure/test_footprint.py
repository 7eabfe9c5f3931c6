"""Footprints predicted from headers: published counts and sizes, caches, buffers, what fits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.kernels_cpu.machine.cpu import AVX512VNNI, GENERIC
from edgellama.kernels_cpu.signatures import CACHE_TYPES
from edgellama.measure.footprint import (
    AS_IT_IS,
    LOGITS_COPIES,
    Footprint,
    Machine,
    draft_model_bytes,
    predict,
    weights_bytes,
)
from edgellama.measure.footprint_fit import (
    TYPES_BY_QUALITY,
    divergence,
    fitting,
    parse_size,
    types_below,
)
from edgellama.measure.model_outline import ModelOutline
from edgellama.measure.model_presets import MODEL_PRESETS, find_preset
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.recipes import RECIPES

# From the model cards and the checkpoints' indexes.
PARAMETERS = {
    "llama-1-7b": 6_738_415_616,
    "llama-1-13b": 13_015_864_320,
    "llama-1-33b": 32_528_943_616,
    "llama-1-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "code-llama-7b": 6_738_546_688,
    "code-llama-13b": 13_016_028_160,
    "code-llama-34b": 33_743_970_304,
    "code-llama-70b": 68_976_910_336,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.2": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "deepseek-r1-distill-llama-8b": 8_030_261_248,
    "deepseek-r1-distill-llama-70b": 70_553_706_496,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-small-22b": 22_247_282_688,
    "mistral-small-24b": 23_572_403_200,
    "mistral-large-123b": 122_610_069_504,
    "smollm3-3b": 3_075_098_624,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}
# GiB of files that llama.cpp's perplexity page and quantization page list.
PUBLISHED_GIB = [
    ("llama-3-8b", "f16", 14.97),
    ("llama-3-8b", "q8_0", 7.96),
    ("llama-3-8b", "q6_k", 6.14),
    ("llama-3-8b", "q5_k_m", 5.33),
    ("llama-3-8b", "q5_k_s", 5.21),
    ("llama-3-8b", "q4_k_m", 4.58),
    ("llama-3-8b", "q4_k_s", 4.37),
    ("llama-3-8b", "q4_0", 4.34),
    ("llama-3-8b", "q3_k_m", 3.74),
    ("llama-3-8b", "q2_k", 2.96),
    ("llama-2-70b", "q4_0", 36.20),
    ("mistral-7b-v0.1", "q4_k_m", 4.07),
    ("mistral-7b-v0.3", "q4_k_m", 4.07),
    ("llama-2-70b", "q5_0", 44.20),
]
# Bytes of files, as their publishers list them.
PUBLISHED_BYTES = [
    ("mistral-7b-v0.3", "q6_k", 5_947_248_800),
    ("mistral-7b-v0.3", "q8_0", 7_702_565_024),
    ("mistral-nemo-12b", "q2_k", 4_791_051_392),
    ("mistral-nemo-12b", "q3_k_m", 6_083_093_632),
    ("mistral-nemo-12b", "q4_k_m", 7_477_208_192),
    ("mistral-nemo-12b", "q5_k_m", 8_727_635_072),
    ("mistral-nemo-12b", "q6_k", 10_056_213_632),
    ("mistral-nemo-12b", "q8_0", 13_022_372_992),
    ("mistral-small-22b", "q2_k", 8_272_098_304),
    ("mistral-small-22b", "q4_k_m", 13_341_242_368),
    ("mistral-small-22b", "q8_0", 23_640_552_448),
    ("mistral-small-24b", "q2_k", 8_890_324_672),
    ("mistral-small-24b", "q4_k_m", 14_333_908_672),
    ("mistral-small-24b", "q5_k_m", 16_763_983_552),
    ("mistral-small-24b", "q8_0", 25_054_779_072),
    ("llama-3.2-1b", "q4_k_m", 807_694_464),
    ("qwen2.5-7b", "q2_k", 3_015_940_800),
    ("qwen2.5-7b", "q4_k_m", 4_683_074_240),
    ("qwen2.5-7b", "q8_0", 8_098_525_888),
    ("qwen2.5-14b", "q2_k", 5_770_498_176),
    ("qwen3-8b", "q4_k_m", 5_027_783_488),
    ("qwen2.5-14b", "q3_k_m", 7_339_204_736),
    ("qwen2.5-32b", "q4_k_m", 19_851_336_576),
    ("qwen2.5-32b", "q8_0", 34_820_885_376),
    ("llama-3.1-70b", "q8_0", 74_980_000_000),
    ("llama-3.1-70b", "q4_k_m", 42_520_000_000),
    ("llama-3.1-70b", "q3_k_m", 34_270_000_000),
]
MACHINE = Machine(GENERIC, 2)
F16 = KVTypes("f16", "f16")


def outline_of(name: str) -> ModelOutline:
    """The outline of a preset."""
    preset = find_preset(name)
    assert preset is not None
    return ModelOutline.from_preset(preset)


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_parameters_are_those_published(name: str) -> None:
    """Every preset has exactly the parameters of the published checkpoint."""
    assert outline_of(name).num_parameters == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Llama 2 7B", "llama-2-7b"),
        ("llama3.1-405B", "llama-3.1-405b"),
        ("CodeLlama-34b", "code-llama-34b"),
        ("TinyLlama", "tinyllama-1.1b"),
        ("Mistral 7B", "mistral-7b-v0.3"),
        ("mistral-7b-v0.1", "mistral-7b-v0.1"),
        ("Mistral Nemo", "mistral-nemo-12b"),
        ("DeepSeek-R1-Distill-Llama-8B", "deepseek-r1-distill-llama-8b"),
        ("llama-4-8b", None),
        ("", None),
    ],
)
def test_names_forgive_punctuation(name: str, found: str | None) -> None:
    """Case and punctuation of a preset's name do not matter; other names are none."""
    preset = find_preset(name)
    assert (preset.name if preset else None) == found


@pytest.mark.parametrize(("name", "type", "gib"), PUBLISHED_GIB)
def test_files_are_as_large_as_published(name: str, type: str, gib: float) -> None:
    """The predicted size of a file is that of the published file, to its two decimals."""
    assert weights_bytes(outline_of(name), type) / 2**30 == pytest.approx(gib, abs=0.0101)


@pytest.mark.parametrize(("name", "type", "num_bytes"), PUBLISHED_BYTES)
def test_files_have_the_published_bytes(name: str, type: str, num_bytes: int) -> None:
    """All but what a publisher writes into the header: less than 1 in 2,000."""
    assert weights_bytes(outline_of(name), type) == pytest.approx(num_bytes, rel=5e-4)


@pytest.mark.parametrize(
    "model",
    [
        TinyLlama(biases=True, rope_freqs=True, tied=True),
        TinyLlama(width=256, feed_forward=512, weight_format="Q4_0", formats={"output": "Q8_0"}),
    ],
    ids=["float", "quantized"],
)
def test_a_file_is_predicted_from_its_header(tmp_path: Path, model: TinyLlama) -> None:
    """Weights are the file's bytes; the cache is as large as a real one; shapes agree."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", model)
    with GGUFFile(path) as file:
        outline = ModelOutline.from_gguf(file)
        assert outline.is_tied == model.tied
        own = outline.config
        rebuilt = ModelOutline.from_sizes(
            "again",
            own,
            is_tied=model.tied,
            has_rope_freqs=model.rope_freqs,
            biased=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
            if model.biases
            else (),
        )
        assert rebuilt.shapes == outline.shapes
        for kv_type in CACHE_TYPES:
            pages = PageLayout.of(own, KVTypes.of(kv_type), GENERIC.lanes)
            prediction = predict(
                outline,
                MACHINE,
                type=AS_IT_IS,
                kv_types=KVTypes.of(kv_type),
                context_length=100,
            )
            assert prediction.weights_bytes == path.stat().st_size
            assert prediction.kv_bytes == pages.used_bytes(100)
            assert prediction.total_bytes == sum(prediction.parts.values())


def test_longer_contexts_and_more_threads_take_more() -> None:
    """Keys and values grow with the context in proportion, activations stop at 512 tokens."""
    outline = outline_of("llama-3.2-1b")

    def at(context_length: int, machine: Machine = MACHINE) -> tuple[int, int]:
        found = predict(
            outline,
            machine,
            type="q4_0",
            kv_types=F16,
            context_length=context_length,
        )
        return found.kv_bytes, found.activations_bytes

    assert at(8192)[0] == 2 * at(4096)[0] == 2 * 4096 * 2 * 16 * 8 * 64 * 2
    assert at(8192)[1] == at(512)[1] > at(64)[1]
    assert at(512, Machine(GENERIC, 8))[1] > at(512)[1]


def of_texts(outline: ModelOutline, num_texts: int, *, on_card: bool = False) -> Footprint:
    """What texts at once take, of 512 tokens each."""
    return predict(
        outline,
        MACHINE,
        type="q4_0",
        kv_types=F16,
        context_length=512,
        on_card=on_card,
        num_texts=num_texts,
    )


@pytest.mark.parametrize("on_card", [False, True])
def test_texts_at_once_have_keys_values_and_logits_of_their_own(on_card: bool) -> None:
    """Weights, vocabulary and code are there once, however many texts run."""
    outline = outline_of("llama-3.2-1b")
    one, five = (of_texts(outline, number, on_card=on_card) for number in (1, 5))
    assert five.kv_bytes == 5 * one.kv_bytes
    assert 3 * one.card_bytes < five.card_bytes < 5 * one.card_bytes or not on_card
    logits_bytes = five.activations_bytes - one.activations_bytes
    assert logits_bytes == 4 * LOGITS_COPIES * 4 * outline.config.vocab_size
    rest = five.total_bytes - five.kv_bytes - logits_bytes
    assert rest == one.total_bytes - one.kv_bytes


def test_a_draft_model_reads_all_texts() -> None:
    """What a draft model takes grows with the texts as its model does."""
    outline = outline_of("llama-3.2-1b")

    def of(num_texts: int) -> int:
        return draft_model_bytes(
            outline, MACHINE, type="q4_0", context_length=512, num_texts=num_texts
        )

    one, five = (of_texts(outline, number).total_bytes for number in (1, 5))
    assert of(5) - of(1) == five - one > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "q4_9"}, "no type is called 'q4_9'"),
        ({"type": AS_IT_IS}, "no type is called 'file'"),
        ({"context_length": 0}, "context length 0"),
    ],
)
def test_impossible_wishes_are_refused(changes: dict[str, object], message: str) -> None:
    """An unknown type or length is an error that names it."""
    wish: dict[str, object] = {
        "type": "q4_0",
        "kv_types": F16,
        "context_length": 512,
    }
    with pytest.raises(InvalidOptionError, match=message):
        predict(outline_of("llama-2-7b"), MACHINE, **(wish | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "type", "value_type", "is_pure", "memory_bytes"),
    [
        ("llama-2-7b", "q4_k_m", "q8_0", False, 5.5e9),
        ("llama-2-13b", "iq4_xs", "q4_0", False, 8.9e9),
        ("llama-2-70b", "iq4_xs", "q4_0", True, 37.6e9),
    ],
)
def test_four_bits_need_less_than_published(
    name: str, type: str, value_type: str, is_pure: bool, memory_bytes: float
) -> None:
    """Llama 2 in 4 bits with 4,096 tokens stays below the published figures, as docs say."""
    found = predict(
        outline_of(name),
        Machine(AVX512VNNI, 8),
        type=type,
        kv_types=KVTypes("q8_0", value_type),
        context_length=4096,
        is_pure=is_pure,
    )
    assert 0.9 * memory_bytes < found.total_bytes < memory_bytes
    if is_pure:
        assert found.bits_per_weight == pytest.approx(4.25, abs=0.001)


def test_every_type_has_its_place_in_quality() -> None:
    """Each recipe is ranked, and more bits of the same family are never ranked worse."""
    assert set(TYPES_BY_QUALITY) == set(RECIPES)
    assert TYPES_BY_QUALITY[0] == "bf16" and TYPES_BY_QUALITY[-1] == "q2_k"


def test_what_fits_is_ranked_by_quality() -> None:
    """Only what fits is offered, better ones first, and nothing larger than a better one."""
    outline = outline_of("llama-2-13b")
    predictions = [
        predict(outline, MACHINE, type=type, kv_types=KVTypes.of(kv), context_length=4096)
        for type in TYPES_BY_QUALITY
        for kv in ("f32", "f16")
    ]
    memory_bytes = 12 * 10**9
    fits = fitting(predictions, memory_bytes)
    assert (fits[0].type, fits[0].kv_types) == ("q4_k_m", F16)
    assert all(fit.total_bytes <= memory_bytes for fit in fits)
    for better, worse in pairwise(fits):
        assert divergence(better) <= divergence(worse)
        assert better.total_bytes > worse.total_bytes
    best = divergence(fits[0])
    assert not any(p.total_bytes <= memory_bytes and divergence(p) < best for p in predictions)
    assert fitting(predictions, 10**9) == []


def test_a_file_is_only_converted_downwards(tmp_path: Path) -> None:
    """Of a quantized file only types with fewer bits than it has are of use."""
    model = TinyLlama(width=256, feed_forward=256, weight_format="Q8_0")
    with GGUFFile(write_tiny_llama(tmp_path / "tiny.gguf", model)) as file:
        below = types_below(ModelOutline.from_gguf(file))
    assert "q4_0" in below
    assert not {"f16", "f32", "bf16"} & set(below)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        *(("16GB", 16 * 10**9), ("16 gb", 16 * 10**9), ("7.5GiB", 15 * 2**29), ("900M", 9 * 10**8)),
        *(("1tib", 2**40), ("4096B", 4096), ("64kB", 64000)),
        *(("8", 8 * 10**9), ("7.5", 75 * 10**8), ("8000000000B", 8 * 10**9)),
    ],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    """Units are decimal, or binary with an i; without one, GB are meant."""
    assert parse_size(text) == num_bytes


def test_bytes_need_their_unit() -> None:
    """A bare number of a size that only bytes have is asked about."""
    with pytest.raises(InvalidOptionError, match=r"which would be GB; .*as in 8000000000B"):
        parse_size("8000000000")


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "16XB", "1e9", "0", "1.2.3GB", "16GBs"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    """Anything else is an error that shows what is allowed."""
    with pytest.raises(InvalidOptionError, match="allowed: such as 16GB"):
        parse_size(text)
