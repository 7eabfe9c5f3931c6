"""SentencePiece from GGUF metadata against the library's own models, trained in the test."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference.sentencepiece_models import CASES, Options, both_ways
from reference.tokenizer_references import hard_text, sentencepiece_ids
from reference.vocabularies import sentencepiece_metadata

from edgellama.quant.vocabulary.vocabulary import TokenType
from edgellama.text.tokenizer import StreamingDetokenizer, load_tokenizer

PIECES = (
    *(" ", "  ", "     ", "\n", "\t", "the", " and", "def", "\\u0", "0123", "\u2581", "<ctl>"),
    *("<tool>", "</tool>", "##", "#", "<s>", "</s>", "<unk>", "<0x41>", "\u00e9", "\u4e2d"),
    *("\U0001f600", "\x00", "\u3000", "\ud800", "\u200b", "A", "z"),
)
mixed_text = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.text(max_size=40)
)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_ids_and_text_equal_the_library(options: Options) -> None:
    """The rebuilt model encodes any text as the trained one does, and decodes alike."""
    tokenizer, processor = both_ways(options)
    reference = sentencepiece_ids(processor)

    @settings(max_examples=80, deadline=None)
    @given(mixed_text)
    def check(text: str) -> None:
        text = text.replace("\ud800", "\ufffd")
        ids = tokenizer.encode(text, add_bos=False)
        assert ids == reference(text)
        assert tokenizer.decode(ids) == processor.decode(ids)

    check()
    for text in hard_text():
        assert tokenizer.encode(text, add_bos=False) == reference(text), ascii(text)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_any_tokens_decode_as_in_the_library(options: Options) -> None:
    """Any sequence of ids gives the library's text: half characters, controls, leading spaces."""
    tokenizer, processor = both_ways(options)

    @settings(max_examples=80, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    @example([processor.piece_to_id(piece) for piece in ("<0xC3>", "<ctl>", "<0xA9>")])
    def check(ids: list[int]) -> None:
        assert tokenizer.decode(ids) == processor.decode(ids)
        stream = StreamingDetokenizer(tokenizer)
        assert "".join(map(stream.add, ids)) + stream.finish() == processor.decode(ids)

    check()


@pytest.mark.parametrize("options", CASES, ids=str)
def test_a_text_has_at_least_the_tokens_that_its_length_tells(options: Options) -> None:
    """``min_tokens`` is never more than there are; it is 0 where unknown characters are joined."""
    tokenizer, _ = both_ways(options)

    @settings(max_examples=100, deadline=None)
    @given(mixed_text)
    def check(text: str) -> None:
        assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text, add_bos=False))

    check()
    assert (tokenizer.min_tokens("the " * 10_000) > 100) == options.byte_fallback


def test_a_giant_word_is_cut_as_the_library_cuts_it() -> None:
    """A word of 300,000 letters has the library's tokens, and comes back from them."""
    tokenizer, processor = both_ways(CASES[0])
    text = "ing" * 100_000
    ids = tokenizer.encode(text, add_bos=False)
    assert ids == processor.encode(text)
    assert tokenizer.decode(ids) == text


def test_tokens_that_carry_on_a_text_keep_their_space() -> None:
    """The space that encoding adds is dropped at a text's start and kept in its continuation."""
    tokenizer, _ = both_ways(CASES[0])
    ids = tokenizer.encode("the", add_bos=False)
    assert tokenizer.decode(ids) == "the"
    assert tokenizer.decode(ids, continuation=True) == " the"


def test_control_tokens_split_text_only_when_parsed() -> None:
    """A control token's text is text by default and one id with parse_special."""
    tokenizer, processor = both_ways(CASES[0])
    control = processor.piece_to_id("<ctl>")
    assert control not in tokenizer.encode("a<ctl>b")
    expected = [*processor.encode("a"), control, *processor.encode("b")]
    assert tokenizer.encode("a<ctl>b", add_bos=False, parse_special=True) == expected


def test_user_defined_tokens_are_always_matched() -> None:
    """A user-defined token is one id in any text, as the library has it."""
    tokenizer, processor = both_ways(CASES[1])
    symbol = processor.piece_to_id("<tool>")
    assert tokenizer.encode("x<tool>y").count(symbol) == 1
    assert tokenizer.decode([symbol]) == "<tool>"


def test_a_vocabulary_with_odd_pieces_still_loads() -> None:
    """Pieces that the library refuses (empty, twice, with a NUL) keep their ids unused."""
    tokens = ["<unk>", "<s>", "</s>", "", "a", "a", "b\0", "\u2581a", "c d"]
    tokenizer = load_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 7 + [-1.0, 0.0],
            "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 4, 1, 4],
        }
    )
    assert tokenizer.vocab_size == 9
    assert tokenizer.encode("a", add_bos=False) == [7]
    assert tokenizer.encode("ac d", add_bos=False) == [7, 8]
    assert tokenizer.token_text(6) == "b\0"
    assert tokenizer.special.bos_id == 1
    assert tokenizer.special.eos_id == 2


def test_long_pieces_are_written_whole() -> None:
    """Pieces beyond the lengths that one byte can say keep their text and score."""
    long_piece = "x" * 300
    tokenizer = load_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "y" * 120, long_piece, "\u2581"],
            "tokenizer.ggml.token_type": [2, 4, 4, 1],
        }
    )
    assert tokenizer.encode(long_piece + "y" * 120) == [3, 2, 1]
    assert tokenizer.decode([2]) == long_piece


def test_unknown_token_among_control_tokens() -> None:
    """A file that types the unknown token as a control token, as llama.cpp does, cuts the same."""
    _, processor = both_ways(CASES[0])
    metadata = sentencepiece_metadata(processor)
    expected = load_tokenizer(metadata)
    types = [
        3 if kind == TokenType.UNKNOWN else kind for kind in metadata["tokenizer.ggml.token_type"]
    ]
    found = load_tokenizer({**metadata, "tokenizer.ggml.token_type": types})
    assert [found.encode(t) for t in hard_text()] == [expected.encode(t) for t in hard_text()]
