"""Infilling: which tokens a file has for it, and the prompts that are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference.family import MEMBERS
from reference.family_tokenizers import INFILL_PIECES, sentencepiece_model, with_pieces
from reference.tiny_vocabulary import byte_characters
from reference.vocabularies import sentencepiece_metadata
from sentencepiece import SentencePieceProcessor

from edgellama.convert import convert
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.vocabulary.infill_names import INFILL_NAMES, MARKS
from edgellama.text.infill import InfillTokens, infill_tokens
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

PIECE_MODEL = with_pieces(sentencepiece_model(), (*INFILL_PIECES, "\N{WHITE SMILING FACE}"))
PROCESSOR = SentencePieceProcessor(model_proto=PIECE_MODEL)
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


def loaded(metadata: dict[str, object]) -> tuple[Tokenizer, InfillTokens]:
    """The tokenizer and its infill tokens."""
    tokenizer = load_tokenizer(metadata)
    return tokenizer, infill_tokens(metadata, tokenizer)


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
    tokenizer, tokens = loaded(code_llama())
    found = tokens.prompt(tokenizer, prefix, suffix, suffix_first=suffix_first)
    assert found == meta_prompt(prefix, suffix, suffix_first=suffix_first)


def test_declared_ids_go_before_names_and_new_keys_before_old() -> None:
    """A file's own keys count, fim_pre before prefix; ids beyond the vocabulary do not."""
    _, tokens = loaded(code_llama(prefix_token_id=9, suffix_token_id=np.uint32(10)))
    assert (tokens.prefix, tokens.suffix) == (9, 10)
    assert tokens.middle == PROCESSOR.piece_to_id(INFILL_PIECES[2])
    _, tokens = loaded(code_llama(prefix_token_id=9, fim_pre_token_id=11, fim_pad_token_id=12))
    assert tokens.prefix == 11
    assert {11, 12} <= tokens.ends
    _, tokens = loaded(code_llama(fim_pre_token_id=1 << 20, fim_suf_token_id="x"))
    assert tokens.prefix == PROCESSOR.piece_to_id(INFILL_PIECES[0])


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("family", INFILL_NAMES, ids=lambda family: family["fim_pre"])
def test_every_family_is_known_by_its_names(family: dict[str, str], kind: int) -> None:
    """Marks of each family make its prompt, whatever type a file gives them."""
    tokenizer, tokens = loaded(byte_level(*family.values(), kind=kind))
    ids = dict(zip(family, range(256, 256 + len(family)), strict=True))
    pre, suf, mid = (ids[mark] for mark in MARKS)
    assert tokens.prompt(tokenizer, "a", "b") == [pre, ord("a"), suf, ord("b"), mid]
    assert tokens.ends == set(ids.values())


def test_marks_inside_texts_stay_text() -> None:
    """What a user's code spells like a mark is not one."""
    family = INFILL_NAMES[1]
    for kind in (1, 3, 4):
        tokenizer, tokens = loaded(byte_level(*family.values(), kind=kind))
        found = tokens.prompt(tokenizer, "<|fim_middle|>", "<|fim_prefix|>")
        assert [token >= 256 for token in found].count(True) == 3
        assert tokenizer.decode(found) == "<|fim_middle|><|fim_prefix|>"


def test_codestral_puts_the_suffix_first_and_nothing_behind() -> None:
    """Mistral's marks make mistral-common's prompt: suffix, then prefix."""
    tokenizer, tokens = loaded(byte_level("[PREFIX]", "[MIDDLE]", "[SUFFIX]"))
    a, b = map(ord, "ab")
    for suffix_first in (False, True):
        found = tokens.prompt(tokenizer, "a", "b", suffix_first=suffix_first)
        assert found == [258, b, 256, a]


def test_a_model_without_such_tokens_is_refused() -> None:
    """Without all three marks there is no infilling, and the error says which models have it."""
    for special in ((), ("<fim_prefix>", "<fim_suffix>"), ("<PRE>", "<|fim_suffix|>", "<MID>")):
        with pytest.raises(UnsupportedModelError, match="Code Llama 7B"):
            loaded(byte_level(*special))


@pytest.mark.parametrize("texts", [(b"a", "b"), ("a", None), (["a"], "b")])
def test_texts_of_other_types_are_refused(texts: tuple[Any, Any]) -> None:
    """A prefix or suffix that is no text is named."""
    tokenizer, tokens = loaded(code_llama())
    with pytest.raises(InvalidOptionError, match=r"(prefix|suffix) is .*; allowed: text"):
        tokens.prompt(tokenizer, *texts)


def test_the_converter_carries_the_ids(tmp_path: Any) -> None:
    """A converted Code Llama fills gaps, and its file has GGUF's keys, old and new."""
    member = next(member for member in MEMBERS if member.name == "code-llama")
    path = tmp_path / "model.gguf"
    convert(member.write(tmp_path / "folder"), path, type="f32")
    with GGUFFile(path) as file:
        _, tokens = loaded(dict(file.metadata))
        keys = {name: file.metadata[f"tokenizer.ggml.{name}_token_id"] for name in MARKS}
        assert keys == {
            "fim_pre": tokens.prefix,
            "fim_suf": tokens.suffix,
            "fim_mid": tokens.middle,
        }
        assert file.metadata["tokenizer.ggml.middle_token_id"] == tokens.middle
