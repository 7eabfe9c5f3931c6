"""Infilling: which tokens a file has for it, and the prompts that are made of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CliRunner
from reference.family_tokenizers import INFILL_PIECES, sentencepiece_model, with_pieces
from reference.tiny_vocabulary import byte_characters
from reference.vocabularies import sentencepiece_metadata
from sentencepiece import SentencePieceProcessor

from edgellama.llama import Llama
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.vocabulary.infill_names import INFILL_NAMES, MARKS
from edgellama.text.infill import infill_prompt
from edgellama.text.tokenizer import load_tokenizer

PIECE_MODEL = with_pieces(sentencepiece_model(), (*INFILL_PIECES, "\N{WHITE SMILING FACE}"))
PROCESSOR = SentencePieceProcessor(model_proto=PIECE_MODEL)
NAMED = {
    mark: PROCESSOR.piece_to_id(piece) for mark, piece in zip(MARKS, INFILL_PIECES, strict=False)
}
TEXTS = ("def add(a, b):\n    ", " the", "the end", "\n    return result\n", "", " ", "a<PRE>b")


def code_llama(**changes: object) -> dict[str, object]:
    """A small Code Llama's metadata, as files have it that declare no infill tokens."""
    return sentencepiece_metadata(PROCESSOR) | {
        f"tokenizer.ggml.{key}": value for key, value in changes.items()
    }


def byte_level(*special: str, kind: int = 3, **changes: object) -> dict[str, object]:
    """A byte-level vocabulary with special tokens at its end."""
    tokens = [*byte_characters(), *special]
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [kind] * len(special),
        "tokenizer.ggml.merges": [],
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


TOKENIZER = load_tokenizer(code_llama())


def meta_prompt(prefix: str, suffix: str, *, suffix_first: bool) -> list[int]:
    """What Meta's own infilling_prompt_tokens makes: the suffix goes behind a smiley."""
    smiley = PROCESSOR.encode("\N{WHITE SMILING FACE}")
    behind = PROCESSOR.encode("\N{WHITE SMILING FACE}" + suffix)[len(smiley) :]
    pre, suf, mid = (PROCESSOR.piece_to_id(piece) for piece in INFILL_PIECES[:3])
    before = PROCESSOR.encode(prefix)
    if suffix_first:
        return [PROCESSOR.bos_id(), pre, suf, *behind, mid, *before]
    return [PROCESSOR.bos_id(), pre, *before, suf, *behind, mid]


@pytest.mark.parametrize("suffix_first", [False, True])
@pytest.mark.parametrize("suffix", TEXTS)
@pytest.mark.parametrize("prefix", TEXTS)
def test_code_llama_prompts_are_those_of_meta(prefix: str, suffix: str, suffix_first: bool) -> None:
    """Every prompt has the tokens that Meta's reference code gives it."""
    found = infill_prompt(TOKENIZER, prefix, suffix, suffix_first=suffix_first)
    assert found == meta_prompt(prefix, suffix, suffix_first=suffix_first)


def test_declared_ids_go_before_names_and_new_keys_before_old() -> None:
    """A file's own keys count, fim_pre before prefix; ids beyond the vocabulary do not."""
    ids = load_tokenizer(code_llama(prefix_token_id=9, suffix_token_id=np.uint32(10))).infill_ids
    assert ids == {**NAMED, "fim_pre": 9, "fim_suf": 10}
    ids = load_tokenizer(code_llama(prefix_token_id=9, fim_pre_token_id=11)).infill_ids
    assert ids == {**NAMED, "fim_pre": 11}
    ids = load_tokenizer(code_llama(fim_pre_token_id=1 << 20, fim_suf_token_id="x")).infill_ids
    assert ids == NAMED


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("family", INFILL_NAMES, ids=lambda family: family["fim_pre"])
def test_every_family_is_known_by_its_names(family: dict[str, str], kind: int) -> None:
    """Marks of each family make its prompt, whatever type a file gives them."""
    tokenizer = load_tokenizer(byte_level(*family.values(), kind=kind))
    ids = dict(zip(family, range(256, 256 + len(family)), strict=True))
    pre, suf, mid = (ids[mark] for mark in MARKS)
    assert infill_prompt(tokenizer, "a", "b") == [pre, ord("a"), suf, ord("b"), mid]
    assert tokenizer.infill_ids == ids


def test_marks_inside_texts_stay_text() -> None:
    """What a user's code spells like a mark is not one."""
    family = INFILL_NAMES[1]
    for kind in (1, 3, 4):
        tokenizer = load_tokenizer(byte_level(*family.values(), kind=kind))
        found = infill_prompt(tokenizer, "<|fim_middle|>", "<|fim_prefix|>")
        assert [token >= 256 for token in found].count(True) == 3
        assert tokenizer.decode(found) == "<|fim_middle|><|fim_prefix|>"


def test_codestral_puts_the_suffix_first_and_nothing_behind() -> None:
    """Mistral's marks make mistral-common's prompt: suffix, then prefix."""
    tokenizer = load_tokenizer(byte_level("[PREFIX]", "[MIDDLE]", "[SUFFIX]"))
    a, b = map(ord, "ab")
    for suffix_first in (False, True):
        found = infill_prompt(tokenizer, "a", "b", suffix_first=suffix_first)
        assert found == [258, b, 256, a]


def test_a_model_without_such_tokens_is_refused() -> None:
    """Without all three marks there is no infilling, and the error says which models have it."""
    for special in ((), ("<fim_prefix>", "<fim_suffix>"), ("<PRE>", "<|fim_suffix|>", "<MID>")):
        with pytest.raises(UnsupportedModelError, match="Code Llama 7B"):
            infill_prompt(load_tokenizer(byte_level(*special)), "a", "b")


@pytest.mark.parametrize("texts", [(b"a", "b"), ("a", None), (["a"], "b")])
def test_texts_of_other_types_are_refused(texts: tuple[Any, Any]) -> None:
    """A prefix or suffix that is no text is named."""
    with pytest.raises(InvalidOptionError, match=r"(prefix|suffix) is .*; allowed: text"):
        infill_prompt(TOKENIZER, *texts)


def test_the_converter_carries_the_ids(code_llama_path: Path) -> None:
    """A converted Code Llama's file has GGUF's keys, old and new."""
    with GGUFFile(code_llama_path) as file:
        keys = {name: file.metadata[f"tokenizer.ggml.{name}_token_id"] for name in MARKS}
        assert keys == load_tokenizer(file.metadata).infill_ids
        assert file.metadata["tokenizer.ggml.middle_token_id"] == keys["fim_mid"]


def test_fill_goes_on_with_the_infill_prompt(code_llama_path: Path) -> None:
    """fill, stream, a session and a batch give what token ids of the prompt give."""
    with Llama(code_llama_path, context_length=128) as llama:
        prompt = infill_prompt(llama.tokenizer, "def f(", "return x")
        expected = llama.generate(prompt, max_tokens=5, temperature=0).text
        assert llama.fill("def f(", "return x", max_tokens=5, temperature=0).text == expected
        with llama.session() as session:
            stream = session.stream("def f(", suffix="return x", max_tokens=5, temperature=0)
            assert "".join(chunk.text for chunk in stream) == expected
        asked = {"prompt": "def f(", "suffix": "return x"}
        (result,) = llama.generate_batch([asked], max_tokens=5, temperature=0)
        assert result.text == expected
        filled = llama.fill_async("def f(", "return x", max_tokens=5, temperature=0)
        assert asyncio.run(filled).text == expected


def test_a_filled_gap_ends_at_any_mark(code_llama_path: Path) -> None:
    """A model that goes on with another mark has ended; in other texts a mark ends nothing."""
    with Llama(code_llama_path, context_length=128) as llama:
        middle = llama.tokenizer.infill_ids["fim_mid"]

        def always_middle(rows: Any, step: Any) -> None:
            rows[:, middle] = 1000.0

        llama.add_hook(always_middle, "logits")
        result = llama.fill("def f(", "return x", max_tokens=5, temperature=0)
        assert (result.text, result.tokens, result.finish_reason) == ("", (), "stop")
        assert len(llama.generate("def f(", max_tokens=5, temperature=0).tokens) == 5


def test_the_command_fills_gaps(code_llama_path: Path, run_cli: CliRunner) -> None:
    """generate --suffix prints what fill returns."""
    options = ("--temp", "0", "-n", "5", "-c", "128", "--json", "-p", "def f(")
    done = run_cli("generate", code_llama_path, *options, "--suffix", "return x")
    with Llama(code_llama_path, context_length=128) as llama:
        result = llama.fill("def f(", "return x", max_tokens=5, temperature=0)
    assert json.loads(done.stdout)["tokens"] == list(result.tokens)
    refused = run_cli("generate", code_llama_path, *options, "--suffix", "x", "--parse-special")
    assert refused.returncode != 0
    assert "--suffix fills a gap" in refused.stderr


def test_the_starter_model_fills_no_gaps(smollm2_path: Path, run_cli: CliRunner) -> None:
    """A model without such tokens is one line, without a traceback."""
    done = run_cli("generate", smollm2_path, "-p", "a", "--suffix", "b", "-c", "64")
    assert done.returncode == 1
    assert "no tokens for infilling" in done.stderr
    assert "Traceback" not in done.stderr
