"""Special tokens, flags, and metadata that is wrong: no model, small vocabularies only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgellama.quant.errors import EdgellamaError, TokenizerError, UnsupportedModelError
from edgellama.quant.vocabulary.special_tokens import END_TOKENS_KEY
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

CONTROL, USER_DEFINED, UNKNOWN, NORMAL, UNUSED = 3, 4, 2, 1, 5
TOKENS = ["<bos>", "<|im_end|>", "a", "b", "c", "ab", "<x>", "<x>y", "<|end|>", "<", "<unk>"]
TYPES = [CONTROL, CONTROL, *[NORMAL] * 4, *[USER_DEFINED] * 2, NORMAL, NORMAL, UNKNOWN]
BPE: dict[str, object] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": TYPES,
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *BYTES, "\u2581", "a", "\u2581a"],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, 1, 1, 1],
    "tokenizer.ggml.scores": [0.0] * 259 + [-2.0, -3.0, -1.0],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def bpe(**changes: object) -> Tokenizer:
    """The small BPE tokenizer with some keys (after ``tokenizer.ggml.``) changed."""
    return load_tokenizer(changed(BPE, **changes))


def changed(metadata: dict[str, object], **changes: object) -> dict[str, object]:
    """The metadata with keys set, or left out where the value is None."""
    keys = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in (metadata | keys).items() if value is not None}


def test_control_tokens_are_parsed_only_on_request() -> None:
    """A control token's text becomes its id with parse_special and stays text without."""
    assert bpe().encode("ab<|im_end|>", parse_special=True) == [5, 1]
    assert 1 not in bpe().encode("ab<|im_end|>")


def test_user_defined_tokens_are_always_matched_longest_first() -> None:
    """User-defined tokens are matched in any text, the longest that fits."""
    for parse_special in (False, True):
        assert bpe().encode("a<x>b<x>y<", parse_special=parse_special) == [2, 6, 3, 7, 9]


def test_bos_and_eos_flags() -> None:
    """The model's flags rule unless the caller says otherwise; False adds neither."""
    both = bpe(add_bos_token=True, add_eos_token=True, eos_token_id=1)
    assert both.encode("a") == [0, 2, 1]
    assert both.encode("a", add_bos=True) == [0, 2]
    assert both.encode("a", add_bos=False) == [2]
    assert both.encode("") == [0, 1]
    assert bpe().encode("a") == [2]
    assert bpe().encode("a", add_bos=True) == [0, 2]


def test_add_bos_without_a_bos_token_is_an_error() -> None:
    """Asking for a BOS that the model lacks is refused, by the caller or by the file."""
    with pytest.raises(TokenizerError, match="no BOS"):
        bpe(bos_token_id=None).encode("a", add_bos=True)
    with pytest.raises(TokenizerError, match="bos_token_id"):
        bpe(bos_token_id=None, add_bos_token=True)


def test_end_of_generation_takes_declared_and_well_known_tokens() -> None:
    """Declared ids count, and well-known names, though <|end|> is a normal token here."""
    special = bpe(eos_token_id=4).special
    assert special.end_of_generation == {1, 4, 8}
    assert (special.eos_id, special.eot_id) == (4, 1)
    assert bpe(eom_token_id=9, eot_token_id=3).special.end_of_generation == {1, 3, 8, 9}


def test_more_end_tokens_are_under_a_key_of_our_own() -> None:
    """Ids under edgellama.tokenizer.end_token_ids end a reply; those out of range end nothing."""
    for ids in ([2, 3, 99], np.array([2, 3, -1], np.int32)):
        metadata = BPE | {END_TOKENS_KEY: ids}
        assert load_tokenizer(metadata).special.end_of_generation == {1, 2, 3, 8}
    for wrong in ("2", 2, ["2"], [2.0], [[2]]):
        with pytest.raises(TokenizerError, match="array of token ids"):
            load_tokenizer(BPE | {END_TOKENS_KEY: wrong})


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED, CONTROL, UNUSED])
@pytest.mark.parametrize("name", ["<|im_end|>", "<|eot_id|>", "<end_of_turn>"])
def test_turn_ends_are_control_tokens_whatever_their_type(name: str, kind: int) -> None:
    """A turn's end of any type ends a reply, shows nothing, and is no part of a plain text."""
    for tokenizer in (
        bpe(tokens=[name, *TOKENS[2:]], token_type=[kind, *TYPES[2:]], bos_token_id=None),
        load_tokenizer(
            changed(
                SENTENCEPIECE,
                tokens=[*SENTENCEPIECE["tokenizer.ggml.tokens"], name],
                token_type=[*SENTENCEPIECE["tokenizer.ggml.token_type"], kind],
                scores=[*SENTENCEPIECE["tokenizer.ggml.scores"], 0.0],
            )
        ),
    ):
        (end,) = tokenizer.encode(name, add_bos=False, parse_special=True)
        assert tokenizer.token_text(end) == name
        assert end in tokenizer.special.end_of_generation
        assert end not in tokenizer.encode(f"a{name}")
        assert tokenizer.decode([end]) == ""


def test_names_that_are_also_words_end_only_as_added_tokens() -> None:
    """</s> as an ordinary word is HTML; as a token that was added it ends a reply."""
    for kind, ends in ((NORMAL, set()), (USER_DEFINED, {0}), (CONTROL, {0})):
        tokens = ["</s>", *TOKENS[2:8], *TOKENS[9:]]
        types = [kind, *TYPES[2:8], *TYPES[9:]]
        tokenizer = bpe(tokens=tokens, token_type=types, bos_token_id=None)
        assert tokenizer.special.end_of_generation == ends


def test_control_tokens_are_skipped_in_text_unless_asked_for() -> None:
    """Decoding hides control tokens, shows user-defined ones, and can show all."""
    assert bpe().decode([0, 5, 6, 1]) == "ab<x>"
    assert bpe().decode([0, 5, 1], skip_special=False) == "<bos>ab<|im_end|>"
    assert bpe().token_bytes(1) == b""
    assert bpe().token_bytes(1, skip_special=False) == b"<|im_end|>"
    assert bpe().token_text(1) == "<|im_end|>"


def test_untyped_vocabularies_hide_their_declared_ends() -> None:
    """Without token types, BOS and EOS are still no text."""
    assert bpe(token_type=None, eos_token_id=1).decode([0, 5, 1]) == "ab"


def test_missing_pattern_is_the_default_one() -> None:
    """A BPE file without tokenizer.ggml.pre runs with the default pattern."""
    assert bpe(pre=None).encode("ab") == bpe(pre="default").encode("ab") == [5]


def test_lists_and_arrays_serve_alike() -> None:
    """Token types and scores may be lists or NumPy arrays of any width."""
    metadata = changed(
        SENTENCEPIECE,
        token_type=np.array(SENTENCEPIECE["tokenizer.ggml.token_type"], np.int32),
        scores=np.array(SENTENCEPIECE["tokenizer.ggml.scores"], np.float32),
        bos_token_id=np.uint32(1),
    )
    for text in ("a", " a\U0001f600", "b<s>"):
        assert load_tokenizer(metadata).encode(text) == load_tokenizer(SENTENCEPIECE).encode(text)


def test_bytes_fall_back() -> None:
    """A character without a piece becomes its UTF-8 bytes and comes back."""
    tokenizer = load_tokenizer(SENTENCEPIECE)
    ids = tokenizer.encode("\u00e9", add_bos=False)
    assert ids == [259, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(ids) == "\u00e9"
    assert tokenizer.token_bytes(3 + 0xC3) == b"\xc3"


@pytest.mark.parametrize("token", [-1, 11, 1 << 40])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    """No id outside the vocabulary has bytes, text, or a place in a text."""
    for call in (bpe().token_bytes, bpe().token_text, lambda token: bpe().decode([token])):
        with pytest.raises(TokenizerError, match=str(token)):
            call(token)


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown pattern": ({"pre": "kimi-k2"}, "kimi-k2.*default, .*llama-bpe, .*smollm"),
    "unknown kind": ({"model": "bert"}, "bert.*gpt2, llama"),
}
BROKEN: dict[str, dict[str, Any]] = {
    "no kind": {"model": None},
    "no tokens": {"tokens": None},
    "empty tokens": {"tokens": [], "token_type": []},
    "tokens is a string": {"tokens": "abc"},
    "tokens are numbers": {"tokens": np.arange(11)},
    "token is a number": {"tokens": [*TOKENS[:-1], 5]},
    "no merges": {"merges": None},
    "pattern is a number": {"pre": 5},
    "types too short": {"token_type": TYPES[:-1]},
    "type out of range": {"token_type": [*TYPES[:-1], 7]},
    "type of zero": {"token_type": [*TYPES[:-1], 0]},
    "types are text": {"token_type": "abc"},
    "types are floats": {"token_type": [1.0] * 11},
    "scores too long": {"scores": [0.0] * 12},
    "score is infinite": {"scores": [0.0] * 10 + [float("inf")]},
    "bos out of range": {"bos_token_id": 11},
    "bos is negative": {"bos_token_id": -1},
    "bos is text": {"bos_token_id": "<bos>"},
    "flag is a number": {"add_bos_token": 3},
}
ROLES_WITHOUT_NEED = ("padding", "unknown", "eot", "eom", "mask", "seperator", "cls", "fim_pre")


@pytest.mark.parametrize("token", [1 << 20, -1, 0xFFFFFFFF, "<pad>"])
@pytest.mark.parametrize("role", ROLES_WITHOUT_NEED)
def test_roles_that_nothing_needs_never_stop_a_file(role: str, token: object) -> None:
    """An id that is no token counts as none for every role but BOS and EOS."""
    assert bpe(**{f"{role}_token_id": token}).encode("ab") == [5]
    special = load_tokenizer(changed(SENTENCEPIECE, **{f"{role}_token_id": token})).special
    assert (special.unknown_id, special.padding_id) == (0, None)


@pytest.mark.parametrize("role", ["bos", "eos"])
def test_needed_roles_out_of_range_are_told(role: str) -> None:
    """A BOS or EOS that is no token is one line with the file's name and how to repair it."""
    key = f"tokenizer.ggml.{role}_token_id"
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(changed(BPE, **{f"{role}_token_id": 11}), "folder/model.gguf")
    assert caught.value.in_terminal == (
        f"folder/model.gguf: {key} is 11; 0 to 10; repair it with the right ID: "
        f"edgellama convert OLD.gguf NEW.gguf --type copy --metadata {key}=ID"
    )
    assert f'metadata={{"{key}": ID}})' in str(caught.value)


BROKEN_SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "no unknown token": {"token_type": [1, 3, 3, *[6] * 256, 1, 1, 1]},
    "a byte is missing": {"token_type": [2, 3, 3, 1, *[6] * 255, 1, 1, 1]},
    "a byte that is none": {"token_type": [2, 3, 3, *[6] * 257, 1, 1]},
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unknown_kinds_are_refused_with_the_known_ones(name: str) -> None:
    """A kind or pattern that does not run is named beside those that do."""
    changes, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        bpe(**changes)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_gives_our_own_error(name: str) -> None:
    """Whatever is wrong with the vocabulary, the error is ours."""
    with pytest.raises(TokenizerError):
        bpe(**BROKEN[name])


@pytest.mark.parametrize("name", BROKEN_SENTENCEPIECE)
def test_broken_sentencepiece_gives_our_own_error(name: str) -> None:
    """A vocabulary that sentencepiece cannot have made is refused."""
    with pytest.raises(EdgellamaError):
        load_tokenizer(changed(SENTENCEPIECE, **BROKEN_SENTENCEPIECE[name]))
