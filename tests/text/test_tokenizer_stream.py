"""Streaming: text token by token, and stop strings in it, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.quant.errors import InvalidOptionError
from edgellama.text.tokenizer import StopStrings, StreamingDetokenizer, Tokenizer, load_tokenizer
from edgellama.text.tokenizer.byte_pair_merge import byte_symbols

BYTE_LEVEL = load_tokenizer(
    {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [symbol.decode() for symbol in byte_symbols()] + ["<end>"],
        "tokenizer.ggml.token_type": [1] * 256 + [3],
        "tokenizer.ggml.merges": [],
    }
)
BYTE_FALLBACK = load_tokenizer(
    {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "\u2581", "\u2581a", "\u2581\u2581", "\u00e9"]
        + [f"<0x{byte:02X}>" for byte in range(256)],
        "tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1] + [6] * 256,
    }
)
TOKENIZERS = [BYTE_LEVEL, BYTE_FALLBACK]
NAMES = ["byte level", "byte fallback"]


def tokens_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids with many bytes that belong to characters of several bytes."""
    return st.one_of(
        st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12),
        st.text(max_size=8).map(lambda text: tokenizer.encode(text, add_bos=False)),
    )


@pytest.mark.parametrize("continuation", [False, True])
@pytest.mark.parametrize("skip_special", [False, True])
@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
def test_the_parts_joined_are_the_whole(
    tokenizer: Tokenizer, skip_special: bool, continuation: bool
) -> None:
    """For any ids, streamed text equals decode() of all of them, with the same options."""

    @given(tokens_of(tokenizer))
    def check(ids: list[int]) -> None:
        options = {"skip_special": skip_special, "continuation": continuation}
        stream = StreamingDetokenizer(tokenizer, **options)
        streamed = "".join([*map(stream.add, ids), stream.finish()])
        assert streamed == tokenizer.decode(ids, **options)

    check()


@given(st.text(max_size=12))
def test_no_half_characters(text: str) -> None:
    """Well-formed text never shows U+FFFD on the way, and each character as soon as it is whole."""
    stream, shown = StreamingDetokenizer(BYTE_LEVEL), ""
    data = text.encode()
    for end, token in enumerate(BYTE_LEVEL.encode(text), 1):
        shown += stream.add(token)
        assert shown == data[:end].decode("utf-8", "ignore")
    assert stream.finish() == ""


def test_invalid_bytes_become_the_replacement_character_when_proven() -> None:
    """A byte that nothing can complete shows at once; an unfinished character at the end."""
    stream = StreamingDetokenizer(BYTE_LEVEL)
    assert stream.add(0xFF) == "\ufffd"
    assert stream.add(0xE2) == ""
    assert stream.add(ord("a")) == "\ufffda"
    assert stream.add(0xF0) == ""
    assert stream.finish() == "\ufffd"


stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def run(stop_strings: list[str], parts: list[str]) -> tuple[str, bool]:
    """Everything that comes out, and whether a stop string was reached."""
    matcher, shown, stopped = StopStrings(stop_strings), "", False
    for part in parts:
        text, stopped = matcher.feed(part)
        shown += text
    return shown + matcher.flush(), stopped


@given(stops, st.lists(st.text("abc", max_size=5), max_size=8))
def test_any_cut_gives_the_same_output(stop_strings: list[str], parts: list[str]) -> None:
    """Text in parts, character by character or in one piece is passed through alike."""
    text = "".join(parts)
    assert run(stop_strings, parts) == run(stop_strings, list(text)) == run(stop_strings, [text])


@given(stops, st.text("abc", max_size=20))
def test_output_ends_before_the_stop_string_complete_first(
    stop_strings: list[str], text: str
) -> None:
    """The output is the text up to the first complete stop string, or all of it."""
    expected, stopped = text, False
    for end in range(len(text) + 1):
        complete = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if complete:
            expected, stopped = text[: end - max(map(len, complete))], True
            break
    assert run(stop_strings, [text]) == (expected, stopped)


@given(stops, st.text("abc", max_size=12))
def test_no_more_is_held_back_than_could_be_a_stop_string(
    stop_strings: list[str], text: str
) -> None:
    """What is held back is the longest end of the text that begins a stop string."""
    shown, stopped = StopStrings(stop_strings).feed(text)
    if not stopped:
        held = text[len(shown) :]
        beginnings = {stop[:n] for stop in stop_strings for n in range(1, len(stop))}
        assert held == max(
            (text[-n:] for n in range(1, 5) if text[-n:] in beginnings), key=len, default=""
        )


def test_after_the_stop_nothing_more_comes() -> None:
    """Text after the stop string is swallowed, by feed and by flush."""
    matcher = StopStrings(["STOP"])
    assert matcher.feed("one ST") == ("one ", False)
    assert matcher.feed("OP two") == ("", True)
    assert matcher.feed("three") == ("", True)
    assert matcher.flush() == ""


@pytest.mark.parametrize("stop_strings", [[""], ["a", ""], "ab", [b"a"]])
def test_useless_stop_strings_are_refused(stop_strings: list[str]) -> None:
    """Empty strings, a bare string and other types are errors, not silent no-ops."""
    with pytest.raises(InvalidOptionError, match="stop strings"):
        StopStrings(stop_strings)
