"""Vocabularies of converted checkpoints: ids of the reference libraries, and what files may say."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import DATA
from reference import family_tokenizers as tokenizers
from reference.family_llamas import LLAMA_3_1_ALL_SPECIAL, LLAMA_3_ALL_SPECIAL, LLAMA_3_SPECIAL
from reference.tokenizer_references import hard_text, sentencepiece_ids, visible
from reference.vocabularies import (
    LLAMA3_RANKS,
    MISTRAL_V1,
    TEKKEN,
    fetch,
    sentencepiece_metadata,
)
from sentencepiece import SentencePieceProcessor

from edgellama.convert.metadata import MetadataItem
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.sentencepiece_file import read_sentencepiece
from edgellama.convert.vocabulary.tiktoken_vocabulary import is_tiktoken, tiktoken_vocabulary
from edgellama.convert.vocabulary.tokenizer_settings import TokenizerSettings
from edgellama.convert.vocabulary.vocabulary import ConvertedVocabulary
from edgellama.convert.vocabulary.vocabulary_source import read_vocabulary
from edgellama.quant.errors import (
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from edgellama.quant.vocabulary.split_patterns import SPLIT_RULES
from edgellama.quant.vocabulary.split_patterns import TEKKEN as TEKKEN_PATTERN
from edgellama.text.tokenizer import load_tokenizer

GOLDEN = DATA / "tokenizer_golden.npz"
# Of the merges that transformers' TikTokenConverter extracts from the same file, one a line.
LLAMA_3_MERGES_SHA256 = "0cd100e0ab7dbd83c3b668a7cfb2aed1f63f2aec66dae6ec4b63de2c552bb82d"
NUM_PIECES = tokenizers.NUM_PIECES


def vocabulary(
    folder: Path,
    num_rows: int,
    *,
    config: dict[str, Any] | None = None,
    pre: str | None = None,
    scaled: bool = False,
) -> ConvertedVocabulary:
    """The vocabulary of the files in a folder."""
    settings = TokenizerSettings(folder, Fields(config or {}, "config.json"))
    return read_vocabulary(settings, num_rows, pre, scaled_positions=scaled)


def values(items: dict[str, MetadataItem]) -> dict[str, object]:
    """Metadata as a GGUF file would give it back."""
    return {key: item.value for key, item in items.items()}


def encoded(found: ConvertedVocabulary) -> list[list[int]]:
    """What our engine makes of the hard text with a vocabulary."""
    tokenizer = load_tokenizer(values(found.items()))
    return [tokenizer.encode(text, add_bos=False) for text in hard_text()]


def golden_ids(case: str) -> list[list[int]]:
    """The committed ids of a reference library for the hard text."""
    arrays = np.load(GOLDEN)
    ends = arrays[f"{case}-ends"].tolist()
    return [part.tolist() for part in np.split(arrays[case], ends[:-1])]


def test_llama_3_ranks() -> None:
    """Meta's own file gives the merges of transformers' conversion and the ids of tiktoken."""
    path = fetch(LLAMA3_RANKS)
    assert is_tiktoken(path)
    found = tiktoken_vocabulary(path, 128256, None, scaled_positions=True)
    assert found.merges is not None
    assert hashlib.sha256("\n".join(found.merges).encode()).hexdigest() == LLAMA_3_MERGES_SHA256
    assert encoded(found) == golden_ids("llama3")
    named = {role: found.tokens[token] for role, token in found.special_ids.items()}
    assert named == {
        "bos": "<|begin_of_text|>",
        "eos": "<|end_of_text|>",
        "padding": "<|finetune_right_pad_id|>",
        "eot": "<|eot_id|>",
        "eom": "<|eom_id|>",
    }
    assert found.special_ids["eot"] == 128009


def test_tekken_alone(tmp_path: Path) -> None:
    """Mistral's own file gives the ids of Mistral's program, behind its control tokens."""
    (tmp_path / "tekken.json").symlink_to(fetch(TEKKEN))
    found = vocabulary(tmp_path, 131072)
    tokenizer = load_tokenizer(values(found.items()))
    ids = [tokenizer.encode(visible(text), add_bos=False) for text in hard_text()]
    assert ids == json.loads((GOLDEN.parent / "tekken_golden.json").read_text("ascii"))
    named = {role: found.tokens[token] for role, token in found.special_ids.items()}
    roles = {"unknown": "<unk>", "bos": "<s>", "eos": "</s>", "padding": "<pad>"}
    assert named.items() >= roles.items()
    assert (found.pre, found.settings["add_bos_token"]) == ("tekken", True)
    assert found.tokens[3] == "[INST]" and found.tokens[999] == "<SPECIAL_999>"
    assert set(found.types[:1000]) == {3} and set(found.types[1000:]) == {1}


BYTES = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode()} for i in range(256)]
PAIR = {"rank": 256, "token_bytes": base64.b64encode(b"ab").decode()}
TEKKEN_CONFIG = {
    "pattern": TEKKEN_PATTERN,
    "default_vocab_size": 267,
    "default_num_special_tokens": 10,
}


def test_tekken_names_its_control_tokens(tmp_path: Path) -> None:
    """Later files say which they are; what they leave out has a name all the same."""
    special = [{"rank": rank, "token_str": text} for rank, text in ((1, "<s>"), (4, "[X]"))]
    file = {"config": TEKKEN_CONFIG, "vocab": [*BYTES, PAIR], "special_tokens": special}
    (tmp_path / "tekken.json").write_text(json.dumps(file))
    found = vocabulary(tmp_path, 267)
    assert found.tokens[:5] == ["<SPECIAL_0>", "<s>", "<SPECIAL_2>", "<SPECIAL_3>", "[X]"]
    assert list(found.merges or ()) == ["a b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": BYTES}, r"256 byte strings; allowed: 257, by its config"),
        ({"vocab": [*BYTES, PAIR | {"rank": 9}]}, r"vocab\[256\]\.rank is 9; allowed: 256"),
        ({"vocab": [*BYTES, BYTES[0]]}, r"vocab\[256\]\.token_bytes is 'AA=='; allowed: 1 to"),
        ({"config": TEKKEN_CONFIG | {"default_vocab_size": 0}}, "default_vocab_size is 0"),
        ({"config": TEKKEN_CONFIG | {"pattern": "x+"}}, "cut into words by 'x\\+'"),
        ({"special_tokens": [{"rank": -1}]}, r"special_tokens\[0\]\.rank is -1"),
    ],
)
def test_damaged_tekken_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    """What cannot be is named with the file and the field."""
    file = {"config": TEKKEN_CONFIG, "vocab": [*BYTES, PAIR]} | change
    (tmp_path / "tekken.json").write_text(json.dumps(file))
    with pytest.raises((ModelFileError, UnsupportedModelError), match=f"tekken.json.*{message}"):
        vocabulary(tmp_path, 267)


@pytest.mark.parametrize(
    ("scaled", "special"), [(False, LLAMA_3_ALL_SPECIAL), (True, LLAMA_3_1_ALL_SPECIAL)]
)
def test_reserved_tokens(scaled: bool, special: tuple[str, ...], tmp_path: Path) -> None:
    """Llama 3 and 3.1 have 256 special tokens each, under names of their own."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.tiktoken_model())
    found = vocabulary(tmp_path, 316 + 256, scaled=scaled)
    assert tuple(found.tokens[316:]) == special
    assert len(set(special)) == 256
    assert set(found.types[316:]) == {3}


def test_the_first_qwen(tmp_path: Path) -> None:
    """Its file is tiktoken's, with tokens of its own behind, and no text begins with one."""
    (tmp_path / "qwen.tiktoken").write_bytes(tokenizers.tiktoken_model())
    found = vocabulary(tmp_path, 316 + 210)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>"]
    assert found.tokens[316:320] == special
    assert found.tokens[-3:] == ["<|extra_204|>", "[PAD524]", "[PAD525]"]
    assert found.special_ids == {"eos": 316, "eot": 318}
    assert (found.pre, found.settings["add_bos_token"]) == ("qwen2", False)
    assert (
        found.merges
        == tiktoken_vocabulary(
            tmp_path / "qwen.tiktoken", 316 + 256, None, scaled_positions=True
        ).merges
    )


def test_ranks_with_declared_tokens(tmp_path: Path) -> None:
    """GLM-4's file is tiktoken's, and its tokenizer_config.json says what lies behind."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.tiktoken_model())
    texts = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|user|>")
    decoder = {str(316 + i): {"content": text, "special": True} for i, text in enumerate(texts)}
    config = {"tokenizer_class": "ChatGLM4Tokenizer", "eos_token": texts[0]}
    write = tmp_path / "tokenizer_config.json"
    tokenizers.write_json(write, config | {"added_tokens_decoder": decoder})
    found = vocabulary(tmp_path, 324)
    assert tuple(found.tokens[316:]) == (*texts, "[PAD321]", "[PAD322]", "[PAD323]")
    assert found.special_ids == {"eos": 316}
    assert (found.pre, found.settings["add_bos_token"]) == ("glm4", False)
    other = config | {"tokenizer_class": "Elsewhere", "added_tokens_decoder": decoder}
    tokenizers.write_json(write, other)
    with pytest.raises(UnsupportedModelError, match=r"how 'Elsewhere' cuts text .*pre=NAME"):
        vocabulary(tmp_path, 324)
    assert vocabulary(tmp_path, 324, pre="qwen2").pre == "qwen2"
    tokenizers.write_json(write, other | {"tokenizer_class": "PreTrainedTokenizerFast"})
    assert vocabulary(tmp_path, 316 + 256).tokens[316] == "<|begin_of_text|>"


def test_tokens_that_a_class_adds(tmp_path: Path) -> None:
    """ChatGLM 3's lie behind the pieces, in an order of its own, whoever lists some of them."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.sentencepiece_model())
    tokenizers.write_json(
        tmp_path / "tokenizer_config.json",
        {"tokenizer_class": "ChatGLMTokenizer", "additional_special_tokens": ["<|user|>"]},
    )
    found = vocabulary(tmp_path, NUM_PIECES + 10)
    ids = {text: NUM_PIECES + index for index, text in enumerate(found.tokens[NUM_PIECES:])}
    assert ids["[gMASK]"] == NUM_PIECES + 1
    assert ids["sop"] == NUM_PIECES + 3
    assert ids["<|user|>"] == NUM_PIECES + 6
    assert ids["<|observation|>"] == NUM_PIECES + 8


def test_real_sentencepiece() -> None:
    """A real model's pieces, scores and types are those that the library gives, and so its ids."""
    path = fetch(MISTRAL_V1)
    model = read_sentencepiece(path)
    reference = sentencepiece_metadata(SentencePieceProcessor(model_file=str(path)))
    assert [piece.text for piece in model.pieces] == reference["tokenizer.ggml.tokens"]
    assert [piece.score for piece in model.pieces] == reference["tokenizer.ggml.scores"]
    assert [piece.type for piece in model.pieces] == reference["tokenizer.ggml.token_type"]
    assert not is_tiktoken(path)


MODELS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "unigram": {"model_type": "unigram"},
    "joined spaces": {"removes_spaces": True},
    "normalized": {"removes_spaces": True, "normalization": "nmt_nfkc"},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_sentencepiece_kinds(options: dict[str, Any], tmp_path: Path) -> None:
    """Every kind of SentencePiece model cuts text as the library does with its own file."""
    model = tokenizers.sentencepiece_model(**options)
    (tmp_path / "tokenizer.model").write_bytes(model)
    reference = sentencepiece_ids(SentencePieceProcessor(model_proto=model))
    found = encoded(vocabulary(tmp_path, NUM_PIECES))
    assert found == [reference(visible(text)) for text in hard_text()]


# The converter's name for each rule; those of llama.cpp's own making are no tokenizer's.
KINDS = sorted({rule: name for name, rule in reversed(SPLIT_RULES.items())}.values())
NOT_PUBLISHED = ("default", "falcon", "glm4", "youtu", "chameleon")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_PUBLISHED])
def test_byte_level_kinds(kind: str, tmp_path: Path) -> None:
    """A tokenizer.json is recognised by its steps, and cuts text as the library does."""
    from tokenizers import Tokenizer

    as_pairs = KINDS.index(kind) % 2 == 0
    content = tokenizers.byte_level_tokenizer(kind, LLAMA_3_SPECIAL, merges_as_pairs=as_pairs)
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    found = vocabulary(tmp_path, 320)
    library = Tokenizer.from_str(json.dumps(content))
    assert found.pre == kind
    library_ids = [library.encode(visible(t), add_special_tokens=False).ids for t in hard_text()]
    special = set(range(316, 320))
    pairs = zip(encoded(found), library_ids, strict=True)
    assert [(a, b) for a, b in pairs if a != b and not special & set(b)] == []


def test_sentencepiece_without_its_file(tmp_path: Path) -> None:
    """The merges of a real model's tokenizer.json cut text as the model itself."""
    processor = SentencePieceProcessor(model_file=str(fetch(MISTRAL_V1)))
    tokenizers.write_json(tmp_path / "tokenizer.json", tokenizers.fast_tokenizer(processor))
    found = vocabulary(tmp_path, 32000)
    assert found.model == "llama"
    assert found.special_ids == {"unknown": 0, "bos": 1, "eos": 2}
    assert found.settings["add_bos_token"] is True
    assert encoded(found) == golden_ids("mistral-v1")


def test_a_model_that_is_left_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A SentencePiece model beside a tokenizer.json of another kind is of another checkpoint."""
    content = tokenizers.byte_level_tokenizer("llama-bpe", LLAMA_3_SPECIAL)
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    alone = vocabulary(tmp_path, 320)
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.sentencepiece_model())
    assert caplog.messages == []
    assert vocabulary(tmp_path, 320) == alone
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/tokenizer.model is left out")


def test_pieces_that_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tokenizer.json with other pieces than the model's is told, and changes nothing."""
    processor = SentencePieceProcessor(model_proto=tokenizers.sentencepiece_model())
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.sentencepiece_model())
    content = tokenizers.fast_tokenizer(processor)
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    alone = vocabulary(tmp_path, NUM_PIECES)
    assert caplog.messages == []
    content["model"]["vocab"] |= {"elsewhere": NUM_PIECES, "also": NUM_PIECES + 1}
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    assert vocabulary(tmp_path, NUM_PIECES) == alone
    (message,) = caplog.messages
    assert "other ids for 2 pieces, such as 'elsewhere'" in message


def test_merges_that_are_no_scores(tmp_path: Path) -> None:
    """Merges that scores cannot say are refused with the way out; another order is another text."""
    model = SentencePieceProcessor(model_proto=tokenizers.sentencepiece_model())
    content = tokenizers.fast_tokenizer(model)
    merges = content["model"]["merges"]
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    expected = encoded(vocabulary(tmp_path, NUM_PIECES))
    merges.reverse()
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    assert encoded(vocabulary(tmp_path, NUM_PIECES)) != expected
    del merges[10]
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(
        UnsupportedModelError, match=r"not all that could be; if the model .* tokenizer\.model"
    ):
        vocabulary(tmp_path, NUM_PIECES)


def test_every_row_has_a_token(tmp_path: Path) -> None:
    """Rows beyond the vocabulary get unused tokens; added tokens beyond the rows are left out."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.sentencepiece_model())
    tokenizers.write_json(tmp_path / "added_tokens.json", {"<a>": 400, "<b>": 403, "<c>": 410})
    tokenizers.write_json(
        tmp_path / "special_tokens_map.json", {"additional_special_tokens": ["<b>"]}
    )
    found = vocabulary(tmp_path, 405)
    assert found.tokens[400:] == ["<a>", "[PAD401]", "[PAD402]", "<b>", "[PAD404]"]
    assert list(found.types[400:]) == [4, 5, 5, 3, 5]
    with pytest.raises(ModelFileError, match="but the embedding has 300 rows"):
        vocabulary(tmp_path, 300)


def test_texts_are_distinct(tmp_path: Path) -> None:
    """An empty text, or one that is there twice, becomes an unused token under another name."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.sentencepiece_model())
    decoder = tokenizers.added_tokens_decoder(("<s>", "", "[PAD403]"), NUM_PIECES)
    tokenizers.write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    found = vocabulary(tmp_path, 404)
    assert found.tokens[400:] == ["[PAD400]", "[PAD401]", "[PAD403]", "[[PAD403]]"]
    assert list(found.types[400:]) == [5, 5, 3, 5]
    assert len(set(found.tokens)) == len(found.tokens)


def test_two_tokens_with_one_id(tmp_path: Path) -> None:
    """Of two texts with the same id, one would be lost: both are named."""
    content = tokenizers.byte_level_tokenizer("llama-bpe", LLAMA_3_SPECIAL)
    content["model"]["vocab"]["twin"] = 300
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(ModelFileError, match=r"token 300 is '.+' and 'twin'; allowed: an id of"):
        vocabulary(tmp_path, 400)


def test_kinds_of_added_tokens(tmp_path: Path) -> None:
    """Special ones are control tokens, and those that look so; others have plain spaces."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.sentencepiece_model())
    decoder = tokenizers.added_tokens_decoder(("<unk>", "<s>", "</s>"), 0)
    decoder |= tokenizers.added_tokens_decoder(("<tool>", "<|user|>", "\u2581\u2581x"), NUM_PIECES)
    for token in ("401", "402"):
        decoder[token]["special"] = False
    tokenizers.write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    found = vocabulary(tmp_path, NUM_PIECES + 3)
    assert list(found.types[:4]) == [2, 3, 3, 6]
    assert found.tokens[400:] == ["<tool>", "<|user|>", "  x"]
    assert list(found.types[400:]) == [3, 3, 4]


@pytest.mark.parametrize(
    ("settings", "config", "expected"),
    [
        ({}, {}, {"bos": 1, "eos": 2, "unknown": 0}),
        ({"pad_token": "</s>"}, {}, {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}),
        ({"eos_token": {"content": "<s>"}}, {}, {"bos": 1, "eos": 1, "unknown": 0}),
        ({"bos_token": None}, {"pad_token_id": -1}, {"bos": 1, "eos": 2, "unknown": 0}),
        ({}, {"pad_token_id": 9}, {"bos": 1, "eos": 2, "unknown": 0, "padding": 9}),
        ({}, {"pad_token_id": 900}, {"bos": 1, "eos": 2, "unknown": 0}),
    ],
)
def test_roles(
    settings: dict[str, Any], config: dict[str, Any], expected: dict[str, int], tmp_path: Path
) -> None:
    """Settings name tokens by their text; the vocabulary and config.json fill in the rest."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.sentencepiece_model())
    tokenizers.write_json(tmp_path / "tokenizer_config.json", settings)
    assert vocabulary(tmp_path, NUM_PIECES, config=config).special_ids == expected


@pytest.mark.parametrize(
    ("bos", "settings", "expected"),
    [
        (None, {}, (False, False)),
        ("<|begin_of_text|>", {}, (True, False)),
        ("<|begin_of_text|>", {"add_bos_token": False}, (True, False)),
        (None, {"add_bos_token": True, "add_eos_token": True}, (False, False)),
    ],
)
def test_bos_and_eos(
    bos: str | None, settings: dict[str, Any], expected: tuple[bool, bool], tmp_path: Path
) -> None:
    """Byte-level vocabularies add BOS and EOS as the post-processor says, whatever the flags."""
    content = tokenizers.byte_level_tokenizer("llama-bpe", LLAMA_3_SPECIAL, bos=bos)
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    roles = {"bos_token": LLAMA_3_SPECIAL[0], "eos_token": LLAMA_3_SPECIAL[1]}
    tokenizers.write_json(tmp_path / "tokenizer_config.json", roles | settings)
    found = vocabulary(tmp_path, 320).settings
    assert (found["add_bos_token"], found["add_eos_token"]) == expected


def test_the_end_of_a_text_is_not_that_of_a_turn(tmp_path: Path) -> None:
    """What the post-processor puts behind a text is EOS, as in Qwen3-Embedding; both end texts."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    content = tokenizers.byte_level_tokenizer("qwen2", special)
    end = {"SpecialToken": {"id": special[0], "type_id": 0}}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, end]
    content["post_processor"] = {"type": "TemplateProcessing", "single": single}
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    settings = {"eos_token": special[2], "tokenizer_class": "Qwen2Tokenizer"}
    tokenizers.write_json(tmp_path / "tokenizer_config.json", settings)
    found = vocabulary(tmp_path, 320)
    assert (found.settings["add_bos_token"], found.settings["add_eos_token"]) == (False, True)
    roles = {role: found.tokens[found.special_ids[role]] for role in ("eos", "eot")}
    assert roles == {"eos": special[0], "eot": special[2]}


def test_unknown_split_pattern(tmp_path: Path) -> None:
    """An unknown way to cut text is refused with what it is, unless its name is given."""
    content = tokenizers.byte_level_tokenizer("llama-bpe", LLAMA_3_SPECIAL)
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+"
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(UnsupportedModelError, match=r"'\[a-z\]\+', which is none of") as caught:
        vocabulary(tmp_path, 320)
    assert str(caught.value).endswith("pass pre=NAME")
    assert caught.value.in_terminal.endswith("give it with --pre NAME")
    assert vocabulary(tmp_path, 320, pre="deepseek-llm").pre == "deepseek-llm"
    with pytest.raises(InvalidOptionError, match=r"is called 'deepsek'; allowed: a\.x-4"):
        vocabulary(tmp_path, 320, pre="deepsek")


def test_a_pattern_that_only_others_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A name that llama.cpp alone knows is written, and it is said that edgellama cannot run it."""
    content = tokenizers.byte_level_tokenizer("llama-bpe", LLAMA_3_SPECIAL)
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    with caplog.at_level(logging.WARNING):
        assert vocabulary(tmp_path, 320, pre="kimi-k2").pre == "kimi-k2"
    assert "'kimi-k2' is one that llama.cpp knows and edgellama does not" in caplog.text
    caplog.clear()
    vocabulary(tmp_path, 320, pre="viking")
    assert not caplog.records


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": None},
    ],
)
def test_other_steps_are_no_known_pattern(change: dict[str, Any], tmp_path: Path) -> None:
    """A step more, or another, is not passed over."""
    content = tokenizers.byte_level_tokenizer("gpt-2", LLAMA_3_SPECIAL) | change
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(UnsupportedModelError, match="is none of the"):
        vocabulary(tmp_path, 320)


def test_no_tokenizer(tmp_path: Path) -> None:
    """A folder without a tokenizer is refused with the names of the files that are looked for."""
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.model, tokenizer\.json or tek"):
        vocabulary(tmp_path, 320)


def test_other_kinds_of_tokenizer(tmp_path: Path) -> None:
    """A tokenizer of another kind is refused by name."""
    content = tokenizers.byte_level_tokenizer("gpt-2", LLAMA_3_SPECIAL)
    content["model"] = {"type": "WordPiece", "vocab": {"a": 0}}
    tokenizers.write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(UnsupportedModelError, match="of type 'WordPiece'; supported: byte-level"):
        vocabulary(tmp_path, 320)
    word = tokenizers.sentencepiece_model("word", 300)
    (tmp_path / "tokenizer.model").write_bytes(word)
    with pytest.raises(UnsupportedModelError, match="of type WORD; supported: BPE, UNIGRAM"):
        vocabulary(tmp_path, 320)
