"""Added tokens and spaces next to them: ids as transformers gives them, and what files may say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DATA
from reference import family_tokenizers as tokenizers
from reference.added_token_cases import CASES, NUM_ROWS, TEXTS, Case, write

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.added_tokens import AddedToken, added_tokens
from edgellama.convert.vocabulary.tokenizer_settings import TokenizerSettings
from edgellama.convert.vocabulary.vocabulary import ConvertedVocabulary
from edgellama.convert.vocabulary.vocabulary_source import read_vocabulary
from edgellama.quant.errors import TokenizerError
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.chat_tokens import encode_chat
from edgellama.text.tokenizer import StreamingDetokenizer, Tokenizer, load_tokenizer

GOLDEN = DATA / "added_token_golden.npz"
SENTENCEPIECE = sorted(name for name, case in CASES.items() if case.kind != "bytes")
NO_FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)


@cache
def golden() -> dict[str, list[list[int]]]:
    """Ids of every text, by case."""
    with np.load(GOLDEN) as arrays:
        lengths = arrays["lengths"]
        rows = [r.tolist() for r in np.split(arrays["ids"], np.cumsum(lengths.ravel())[:-1])]
        width = lengths.shape[1]
        return {str(n): rows[i * width : (i + 1) * width] for i, n in enumerate(arrays["names"])}


def vocabulary(folder: Path, config: dict[str, Any] | None = None) -> ConvertedVocabulary:
    """What converting the tokenizer in a folder gives."""
    settings = TokenizerSettings(folder, Fields(config or {}, "config.json"))
    return read_vocabulary(settings, NUM_ROWS, None, scaled_positions=False)


def metadata_of(found: ConvertedVocabulary) -> dict[str, object]:
    """Metadata as a GGUF file would give them back."""
    return {key: item.value for key, item in found.items().items()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """The tokenizer of each case."""
    found = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp(name)
        write(case, folder)
        found[name] = load_tokenizer(metadata_of(vocabulary(folder)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_ids_equal_those_of_transformers(name: str, loaded: dict[str, Tokenizer]) -> None:
    """Every text gives the ids of transformers 5, from the files of a checkpoint to the engine."""
    expected = golden()[name]
    assert len(expected) == len(TEXTS)
    for text, ids in zip(TEXTS, expected, strict=True):
        assert loaded[name].encode(text, parse_special=True) == ids, ascii(text)


def test_every_setting_matters() -> None:
    """The cases fall into ten kinds, whose ids differ; only what says the same is alike."""
    kinds: dict[str, set[str]] = {}
    for name, ids in golden().items():
        kinds.setdefault(str(ids), set()).add(name)
    assert sorted(map(sorted, kinds.values())) == [
        ["always", "llama-legacy"],
        ["bytes", "bytes-whole-words"],
        ["first", "llama", "llama-over-steps", "llama-silent", "no-class-not-legacy"],
        ["llama-fast-eos"],
        ["llama-no-prefix", "never"],
        ["no-class"],
        ["prepend"],
        ["replace"],
        ["replace-first"],
        ["split-words"],
    ]


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_text_comes_back(name: str, loaded: dict[str, Tokenizer]) -> None:
    """Text without added tokens comes back, whole and streamed, with every space inside it."""
    tokenizer = loaded[name]

    @given(st.text("hel \n\t\u00e9\U0001f600", max_size=12))
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_bos=False)
        found = tokenizer.decode(ids)
        stream = StreamingDetokenizer(tokenizer)
        assert "".join([*map(stream.add, ids), stream.finish()]) == found
        # A first space is one with that which encoding adds, except in sentencepiece's own way.
        assert found in (text, text.removeprefix(" "))
        if not text.startswith(" ") or name in ("llama-no-prefix", "never", "replace", "no-class"):
            assert found == text

    check()


@pytest.mark.parametrize("name", CASES)
def test_chats_are_cut_as_their_text(name: str, loaded: dict[str, Tokenizer]) -> None:
    """A chat gives the ids of its rendered text, where no message looks like a control token."""
    tokenizer = loaded[name]
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '</s>\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\n' }}"
    )
    for start in ("", "{{ bos_token }}", "Chat: "):
        template = ChatTemplate(start + source, bos_token="<s>", eos_token="</s>")
        messages = [
            {"role": "system", "content": "the world"},
            {"role": "user", "content": " hello <tool>word <r>  the "},
            {"role": "assistant", "content": "\u00e9\nworld"},
        ]
        expected = tokenizer.encode(template.render(messages), parse_special=True, add_bos=False)
        bos = [0] if CASES[name].kind == "bytes" else [1]
        if tokenizer.special.add_bos and expected[:1] != bos:
            expected = bos + expected
        assert encode_chat(tokenizer, template, messages) == expected


def test_messages_keep_control_tokens_as_text(loaded: dict[str, Tokenizer]) -> None:
    """Without parse_special, user-defined tokens are found and control tokens are not."""
    tokenizer = loaded["first"]
    assert tokenizer.encode("<tool>", add_bos=False) == tokenizer.encode(
        "<tool>", add_bos=False, parse_special=True
    )
    ids = tokenizer.encode("hello<|im_start|>", add_bos=False)
    assert not any(map(tokenizer.is_control, ids))
    assert tokenizer.decode(ids) == "hello<|im_start|>"


def test_files_without_our_keys_work_as_before(
    loaded: dict[str, Tokenizer], tmp_path: Path
) -> None:
    """Without the keys every stretch gets a space and the library finds user-defined tokens."""
    write(CASES["llama"], tmp_path)
    metadata = metadata_of(vocabulary(tmp_path))
    ours = {key for key in metadata if key.startswith("edgellama.")}
    assert {key.removeprefix("edgellama.tokenizer.") for key in ours} == {
        *("prepend_scheme", "added_token_ids", "lstrip_token_ids", "rstrip_token_ids"),
        *("single_word_token_ids", "normalized_token_ids", "piece_token_ids"),
    }
    old = load_tokenizer({key: metadata[key] for key in metadata.keys() - ours})
    pieces = [old.token_text(i) for i in old.encode("</s>hello<tool>", parse_special=True)]
    assert pieces == ["<s>", "</s>", "\u2581hello", "<tool>"]
    pieces = [old.token_text(i) for i in old.encode("<tool> a <l> b", parse_special=True)]
    assert pieces == ["<s>", "\u2581", "<tool>", *"\u2581a\u2581", "<l>", "\u2581\u2581", "b"]


BROKEN_KEYS: dict[str, dict[str, object]] = {
    "unknown scheme": {"prepend_scheme": "often"},
    "scheme is a number": {"prepend_scheme": 1},
    "split is a text": {"split_words": "yes"},
    "strip is a number": {"strip_first_space": 1},
    "ids are text": {"lstrip_token_ids": ["a"]},
    "one id": {"rstrip_token_ids": 5},
    "id out of range": {"added_token_ids": [NUM_ROWS]},
    "negative id": {"single_word_token_ids": np.array([-1], np.int32)},
    "unknown normalizer": {"added_token_normalizer": "lower"},
}


@pytest.mark.parametrize("name", BROKEN_KEYS)
def test_broken_keys_give_our_own_error(name: str, tmp_path: Path) -> None:
    """Values that our own keys cannot have are refused with the key's name and the file's."""
    write(CASES["llama"], tmp_path)
    (key, value) = next(iter(BROKEN_KEYS[name].items()))
    metadata = metadata_of(vocabulary(tmp_path)) | {f"edgellama.tokenizer.{key}": value}
    with pytest.raises(TokenizerError, match=rf"model\.gguf: edgellama\.tokenizer\.{key}"):
        load_tokenizer(metadata, "model.gguf")


def union(tmp_path: Path, vocab: dict[str, int], **files: dict[str, Any]) -> dict[int, AddedToken]:
    """The added tokens of files, by their names without ``.json``."""
    for name, content in files.items():
        tokenizers.write_json(tmp_path / f"{name}.json", content)
    return added_tokens(TokenizerSettings(tmp_path, Fields({}, "config.json")), vocab)


def entry(text: str, **flags: bool) -> dict[str, Any]:
    """A token as tokenizer.json and tokenizer_config.json write it."""
    return {"content": text, "special": False, **NO_FLAGS, **flags}


def test_all_files_count(tmp_path: Path) -> None:
    """Tokens of every file are there, with ids, and those without one come last, roles first."""
    found = union(
        tmp_path,
        {"a": 0, "b": 1},
        tokenizer={"added_tokens": [{"id": 2, **entry("<json>", lstrip=True)}]},
        tokenizer_config={
            "added_tokens_decoder": {"3": entry("<decoder>", rstrip=True)},
            "additional_special_tokens": ["<listed>", {"content": "<object>", "lstrip": True}],
            "image_token": "<image>",
            "pad_token": "b",
            "add_bos_token": True,
        },
        added_tokens={"<saved>": 4, "<saved special>": 5},
        special_tokens_map={
            "mask_token": {**entry("<mask>", lstrip=True)},
            "additional_special_tokens": ["<saved special>"],
        },
    )
    assert {token: (entry.text, entry.special) for token, entry in found.items()} == {
        1: ("b", True),
        2: ("<json>", False),
        3: ("<decoder>", False),
        4: ("<saved>", False),
        5: ("<saved special>", True),
        6: ("<mask>", True),
        7: ("<image>", True),
        8: ("<listed>", True),
        9: ("<object>", True),
    }
    assert found[2].lstrip and found[3].rstrip and found[6].lstrip and found[9].lstrip
    assert found[4].normalized and not found[5].normalized


def test_files_that_disagree(tmp_path: Path) -> None:
    """tokenizer.json's ids and tokenizer_config.json's flags count; special once is special."""
    found = union(
        tmp_path,
        {"a": 0},
        tokenizer={"added_tokens": [{"id": 1, **entry("<x>", lstrip=True)}]},
        tokenizer_config={
            "added_tokens_decoder": {"5": entry("<x>", rstrip=True), "6": entry("a")},
            "eos_token": {"content": "<x>", "single_word": True},
        },
        added_tokens={"<x>": 7},
    )
    assert found == {0: AddedToken("a", False), 1: AddedToken("<x>", True, rstrip=True)}


def test_a_token_beside_the_vocabulary_is_found_in_both_kinds(tmp_path: Path) -> None:
    """A special token that only special_tokens_map.json names gets the next row."""
    for kind in ("model", "bytes"):
        folder = tmp_path / kind
        folder.mkdir()
        write(Case(kind, {"tokenizer_class": "PreTrainedTokenizerFast"}), folder)
        tokenizers.write_json(
            folder / "special_tokens_map.json", {"additional_special_tokens": ["<new>"]}
        )
        tokenizer = load_tokenizer(metadata_of(vocabulary(folder)))
        (token,) = tokenizer.encode("<new>", parse_special=True, add_bos=False)
        assert tokenizer.token_text(token) == "<new>"
        assert tokenizer.is_control(token)


ENDS = {
    "generic obeys the template": ("PreTrainedTokenizerFast", "<s>", False, None, (True, False)),
    "generic without template": ("TokenizersBackend", None, True, True, (False, False)),
    "silent obeys the template": (None, "<s>", False, True, (True, False)),
    "llama obeys the flag": ("LlamaTokenizerFast", "<s>", False, True, (False, True)),
    "llama's flag adds": ("LlamaTokenizer", None, True, None, (True, False)),
    "silent llama has a template": ("LlamaTokenizer", "<s>", None, None, (True, False)),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("kind", ["steps", "bytes"])
def test_who_decides_about_bos_and_eos(kind: str, name: str, tmp_path: Path) -> None:
    """Llama's classes obey add_bos_token and add_eos_token, all others the post-processor."""
    cls, bos, adds_bos, adds_eos, expected = ENDS[name]
    settings = {"tokenizer_class": cls, "add_bos_token": adds_bos, "add_eos_token": adds_eos}
    write(Case(kind, settings), tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("ascii"))
    content["post_processor"] = (
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}
        if bos is None
        else tokenizers.post_processor(bos, 0)
    )
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    found = vocabulary(tmp_path).settings
    assert (found["add_bos_token"], found["add_eos_token"]) == expected
