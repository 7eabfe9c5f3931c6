"""Byte-level BPE against Hugging Face tokenizers, live, on random vocabularies and text."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.tokenizer_references import hard_text, hugging_face_ids, published_patterns, visible

from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.vocabulary.split_patterns import (
    BEFORE_THREES,
    OTHER_NAMES,
    SPLIT_RULES,
    THREES_TO_WORD_END,
    SplitRule,
)
from edgellama.quant.vocabulary.string_index import StringIndex
from edgellama.text.tokenizer import load_tokenizer, split_patterns
from edgellama.text.tokenizer.byte_pair_merge import BytePairMerger, byte_symbols
from edgellama.text.tokenizer.split_patterns import Splitter

PIECES = (
    *("'s", "'LL", "'", " ", "  ", "\n", "\r\n", "\t", "1", "23", "4567", "the", " and", "ing"),
    *("\u00e9", "\u4e2d", "\U0001f600", "\u0301", "\u0661", "\u00bd", "!", "...", "$+", "\x00"),
    *(
        "\u4e2d\u6587",
        "\u30ab",
        "\u3042\u30fc",
        "\ud55c\uae00",
        "\uff01",
        "\u3002",
        "\u060c",
        "\u0928\u093f",
    ),
    *(
        "it'S",
        "DON'T",
        "camelCase",
        "\u0130\u0131",
        "//",
        "/\n",
        "<sentinel:1>",
        "IMGIMGABZ",
        "    ",
    ),
    *("\u3000", "\x85", "\u2028", "<|im_end|>", "a", "B", "\x1d", "\xa0", "\u200d", "\ud800"),
)
mixed_text = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.text(max_size=40)
)


def long_assigned(text: str) -> str:
    """The text without characters that are younger than Unicode 3.2, or have changed their kind.

    Libraries know different versions of Unicode.
    """
    is_old = unicodedata.ucd_3_2_0.category
    return "".join("?" if is_old(c) in ("Cn", "Cs") or c == "\u0295" else c for c in text)


def metadata_for(tokens: list[str], merges: list[str], pattern: str) -> dict[str, Any]:
    """Metadata of a BPE tokenizer without special tokens."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pattern,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": merges,
    }


def random_merges(letters: str, num_merges: int, seed: int) -> tuple[list[str], list[str]]:
    """Tokens and merges as no training makes them: any pair, in any order, some joins twice."""
    generator = random.Random(seed)
    tokens, merges = list(letters), []
    while len(merges) < num_merges:
        left, right = generator.choice(tokens), generator.choice(tokens)
        if len(left + right) <= 8 and f"{left} {right}" not in merges:
            merges.append(f"{left} {right}")
            if left + right not in tokens:
                tokens.append(left + right)
    return tokens, merges


@cache
def trained(pattern: str) -> Mapping[str, Any]:
    """A vocabulary of 500 tokens trained on the hard text."""
    from tokenizers import Tokenizer, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=ByteLevel.alphabet())
    tokenizer.train_from_iterator([ascii(text) for text in hard_text()], trainer)
    vocabulary = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    return metadata_for(tokens, [" ".join(merge) for merge in merges], pattern)


@cache
def both_ways(pattern: str) -> tuple[Any, Any]:
    """Our tokenizer and Hugging Face's for the trained vocabulary."""
    metadata = trained(pattern)
    return load_tokenizer(metadata), hugging_face_ids(metadata)


ONE_NAME_A_RULE = {rule: name for name, rule in reversed(SPLIT_RULES.items())}.values()


@pytest.mark.parametrize("pattern", sorted(ONE_NAME_A_RULE))
def test_random_text_gives_hugging_face_ids(pattern: str) -> None:
    """For every split pattern, any text gives the reference's ids and comes back as text."""
    tokenizer, reference = both_ways(pattern)
    for text in hard_text():
        assert tokenizer.encode(text) == reference(text), ascii(text)

    @settings(max_examples=100, deadline=None)
    @given(mixed_text)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert ids == reference(text)
        assert tokenizer.decode(ids) == visible(text)

    check()


@pytest.mark.parametrize("pattern", sorted(ONE_NAME_A_RULE))
def test_words_are_those_of_hugging_face(pattern: str) -> None:
    """For every split pattern, words begin and end where the reference library cuts."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Sequence, Split

    patterns = published_patterns()[pattern][0]
    reference = Sequence([Split(Regex(part), "isolated") for part in patterns])
    splitter = Splitter(SPLIT_RULES[pattern])

    @settings(max_examples=100, deadline=None)
    @given(mixed_text.map(long_assigned))
    def check(text: str) -> None:
        expected = [word for word, _ in reference.pre_tokenize_str(text) if word]
        assert [word for word in splitter.split(text) if word] == expected

    check()


def test_names_are_those_of_llama_cpp() -> None:
    """Every name that llama.cpp knows has the rule of its pattern, or is known to have none."""
    published = published_patterns()
    assert {*SPLIT_RULES, *OTHER_NAMES} == published.keys()
    named = {name: published[name] for name in SPLIT_RULES}
    for name, (patterns, takes_whole_words) in named.items():
        assert SPLIT_RULES[name].takes_whole_words == takes_whole_words
        assert len(SPLIT_RULES[name].patterns) == len(patterns)
        alike = {other for other in named if named[other] == named[name]}
        assert {SPLIT_RULES[other].patterns for other in alike} == {SPLIT_RULES[name].patterns}


@pytest.mark.parametrize("seed", range(12))
def test_merges_are_followed_to_the_letter(seed: int) -> None:
    """Merge lists that no rank order of tokens describes give the reference's ids."""
    metadata = metadata_for(*random_merges("abcd", 24, seed), "gpt-2")
    tokenizer, reference = load_tokenizer(metadata), hugging_face_ids(metadata)
    generator = random.Random(seed)
    for _ in range(150):
        text = "".join(generator.choices("abcd", k=generator.randrange(1, 30)))
        assert tokenizer.encode(text) == reference(text), text


def test_a_join_that_no_merge_names_stays_apart() -> None:
    """Two neighbours whose join is a token are not merged unless the list says so."""
    tokens, merges = ["a", "b", "c", "ab", "bc", "abc"], ["b c", "ab c"]
    tokenizer = load_tokenizer(metadata_for(tokens, merges, "gpt-2"))
    assert tokenizer.encode("abc") == [0, 4]
    assert tokenizer.encode("ab") == [0, 1]


def test_whole_words_are_taken_only_where_the_pattern_says() -> None:
    """With llama-bpe a word in the vocabulary needs no merges; with the others it does."""
    tokens, merges = ["a", "b", "c", "abc"], ["b c"]
    assert load_tokenizer(metadata_for(tokens, merges, "llama-bpe")).encode("abc") == [3]
    for other in ("gpt-2", "smaug-bpe", "dbrx"):
        assert load_tokenizer(metadata_for(tokens, merges, other)).encode("abc") == [0, 1, 2]


def test_a_merge_into_no_token_is_passed_over() -> None:
    """A merge whose join the vocabulary lacks changes nothing."""
    tokenizer = load_tokenizer(metadata_for(["a", "b", "c", "bc"], ["a b", "b c"], "gpt-2"))
    assert tokenizer.encode("abc") == [0, 3]


def test_smollm2_equals_hugging_face_on_random_text(smollm2_path: Path) -> None:
    """The real vocabulary, whose byte tokens are incomplete, gives the reference's ids."""
    with GGUFFile(smollm2_path) as file:
        metadata = dict(file.metadata)
    for special in (False, True):
        tokenizer, reference = load_tokenizer(metadata), hugging_face_ids(metadata, special=special)

        @settings(max_examples=100, deadline=None)
        @given(mixed_text)
        def check(text: str) -> None:
            assert tokenizer.encode(text, parse_special=special) == reference(text)  # noqa: B023

        check()


@pytest.mark.parametrize("letters", ["ing", "aeinst", "a", "ab01+/", "\u00e9\u4e2d"])
def test_a_long_word_has_the_ids_of_hugging_face(letters: str) -> None:
    """A word of 30,000 random letters is merged as a short one is, for tokens of any length."""
    tokenizer, reference = both_ways("gpt-2")
    text = "".join(random.Random(1).choices(letters, k=30_000))
    assert tokenizer.encode(text) == reference(text)


def test_a_giant_word_takes_linear_time_or_nearly() -> None:
    """A word of 200,000 letters is merged and comes back, which quadratic time would not allow."""
    tokenizer, _ = both_ways("gpt-2")
    text = "ing" * 70_000
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text)


@pytest.mark.parametrize("pattern", sorted(ONE_NAME_A_RULE))
def test_giant_texts_are_cut_by_and_by_into_the_same_words(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words found one at a time are those that are found at once."""
    splitter = Splitter(SPLIT_RULES[pattern])
    texts = hard_text()
    at_once = [list(splitter.split(text)) for text in texts]
    monkeypatch.setattr(split_patterns, "MAX_CHARACTERS_AT_ONCE", -1)
    assert [list(splitter.split(text)) for text in texts] == at_once


DIGITS = st.text(alphabet="0123456789\u0661\u00bd_a\u0301 .", max_size=30)


@pytest.mark.parametrize("pattern", [BEFORE_THREES, THREES_TO_WORD_END])
@settings(max_examples=200, deadline=None)
@given(DIGITS)
def test_digits_are_cut_into_threes_as_the_pattern_says(pattern: str, text: str) -> None:
    """What is counted from the end of digits is what the pattern finds."""
    expected = [part for part in regex.compile(f"({pattern})").split(text) if part]
    assert list(Splitter(SplitRule((pattern,))).split(text)) == expected


@pytest.mark.parametrize("name", ["superbpe", "tiny_aya"])
def test_a_giant_number_is_cut_in_linear_time(name: str) -> None:
    """Half a million digits are threes from their end."""
    words = list(Splitter(SPLIT_RULES[name]).split("1" * 500_000))
    assert len(words) == 166_667 and words[0] == "11" and set(words[1:]) == {"111"}


@pytest.mark.parametrize("pattern", ["gpt-2", "llama-bpe"])
def test_a_text_has_at_least_the_tokens_that_its_length_tells(pattern: str) -> None:
    """``min_tokens`` is never more than there are, and grows with the text."""
    tokenizer, _ = both_ways(pattern)

    @settings(max_examples=80, deadline=None)
    @given(mixed_text)
    def check(text: str) -> None:
        assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text, add_bos=False))

    check()
    assert tokenizer.min_tokens("ing" * 10_000) > 100


def test_bytes_that_a_vocabulary_lacks_count_for_nothing() -> None:
    """They are dropped, so that no number of them makes a prompt too long."""
    tokenizer = load_tokenizer(metadata_for(["a", "b", "ab"], ["a b"], "gpt-2"))
    assert tokenizer.encode("xyzab") == [2]
    assert (tokenizer.min_tokens("xyz" * 100), tokenizer.min_tokens("xab" * 3)) == (0, 3)


def test_merges_are_read_only_when_a_word_needs_them() -> None:
    """Building the merger reads no merges, which cost more than the vocabulary."""
    reads: list[str] = []

    def load() -> list[bytes]:
        reads.append("read")
        return [b"a b"]

    merger = BytePairMerger({b"a": 0, b"b": 1, b"ab": 2}, load)
    assert reads == []
    assert merger.merge([b"a", b"b", b"b"]) == [b"ab", b"b"]
    assert merger.merge([b"b", b"a", b"b"]) == [b"b", b"ab"]
    assert reads == ["read"]


def test_byte_symbols_are_those_of_hugging_face() -> None:
    """The printable stand-ins are distinct and equal the reference's alphabet."""
    from tokenizers.pre_tokenizers import ByteLevel

    symbols = [symbol.decode() for symbol in byte_symbols()]
    assert sorted(symbols) == sorted(ByteLevel.alphabet())
    assert (symbols[0x20], symbols[0x0A], symbols[0x41], symbols[0xAD]) == ("Ġ", "Ċ", "A", "Ń")


@given(st.lists(st.binary(max_size=3), max_size=60), st.binary(max_size=3))
def test_strings_are_found_in_long_lists(strings: list[bytes], other: bytes) -> None:
    """An index tells every place of a string, the last one first, and none for others."""
    index = StringIndex(strings)
    for string in (*strings, other):
        places = [place for place, found in enumerate(strings) if found == string]
        assert list(index.places(string)) == places[::-1]
        assert index.last(string) == (places[-1] if places else None)
