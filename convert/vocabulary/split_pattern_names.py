"""From the way a tokenizer.json cuts text into words to GGUF's name for it.

GGUF holds no patterns, only a name (``tokenizer.ggml.pre``) that its readers know. This module
compares the steps of ``pre_tokenizer`` with those of each name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.quant.vocabulary.split_patterns import (
    BEFORE_THREES,
    BLOOM,
    DIGIT,
    GPT2,
    OTHER_NAMES,
    SPLIT_RULES,
    THREES_TO_WORD_END,
)
from edgellama.quant.ways import Way

MAX_DEPTH = 8
NAME_IT = Way(
    "if you know the name that llama.cpp has for it, pass pre=NAME",
    "if you know the name that llama.cpp has for it, give it with --pre NAME",
)
"""What helps where a pattern is none that is recognised."""
# Published spellings of patterns that mean the same as ours.
_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT2,
        " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+": BLOOM,
        r"(?=(\d{3})+(?!\d))": BEFORE_THREES,
        r"\d{1,3}(?=(?:\d{3})*\b)": THREES_TO_WORD_END,
    }
)
_DIGITS = {True: DIGIT, False: r"\p{N}+"}
# The last pattern of DeepSeek LLM parts digits. Where no token has two of them, it parts the same
# as DIGIT.
_DEEPSEEK_LLM = (*SPLIT_RULES["deepseek-llm"].patterns[:-1], DIGIT)
_log = logging.getLogger(__name__)


def split_pattern_name(tokenizer: Fields, pre: str | None) -> str:
    """The value of ``tokenizer.ggml.pre`` for a byte-level tokenizer.json.

    ``pre`` decides where it is given. InvalidOptionError if no reader knows it,
    UnsupportedModelError for steps without a name.
    """
    if pre is not None:
        return checked_name(pre)
    steps = tuple(_steps(tokenizer.fields("pre_tokenizer"), MAX_DEPTH))
    takes_whole_words = tokenizer.fields("model").flag("ignore_merges", False)
    name = _name_of(steps, takes_whole_words)
    if name is None or (
        tokenizer.fields("normalizer") and not _does_nothing(tokenizer.fields("normalizer"))
    ):
        raise UnsupportedModelError(
            f"{tokenizer.source}: text is cut into words by {_written(tokenizer, steps)}, which "
            f"is none of the {len(set(SPLIT_RULES.values()))} patterns that are recognised",
            way=NAME_IT,
        )
    return name


def name_of_pattern(pattern: str) -> str | None:
    """The name of one published pattern, by which words that are tokens are taken whole."""
    return _name_of((_our_spelling(pattern),), True)


def _name_of(steps: tuple[str, ...], takes_whole_words: bool) -> str | None:
    """The first name of these patterns, of a rule that takes whole words alike if there is one."""
    if steps == _DEEPSEEK_LLM:
        return "deepseek-llm"
    names = [name for name, rule in SPLIT_RULES.items() if rule.patterns == steps]
    exact = (n for n in names if SPLIT_RULES[n].takes_whole_words == takes_whole_words)
    return next(exact, next(iter(names), None))


def checked_name(pre: str) -> str:
    """A name that readers know; InvalidOptionError for any other, a warning where ours is none."""
    if pre in OTHER_NAMES:
        _log.warning(
            "the split pattern %s is one that llama.cpp knows and edgellama does not: "
            "edgellama will not load the file",
            shown(pre),
        )
    elif pre not in SPLIT_RULES:
        known = ", ".join(sorted((*SPLIT_RULES, *OTHER_NAMES)))
        raise InvalidOptionError(f"no split pattern is called {shown(pre)}; allowed: {known}")
    return pre


def _does_nothing(normalizer: Fields) -> bool:
    return normalizer.text("type") == "Sequence" and not normalizer.items("normalizers")


def is_byte_level(tokenizer: Fields) -> bool:
    """Whether a tokenizer.json writes bytes as GPT-2 does."""
    decoder = tokenizer.fields("decoder")
    members = [decoder, *decoder.objects("decoders")]
    return any(member.text("type") == "ByteLevel" for member in members)


def _steps(step: Fields, depth: int) -> Iterator[str]:
    """Patterns of a pre-tokenizer and those inside it, in order, without steps that cut nothing.

    A step of another kind is its name in angle brackets.
    """
    kind = step.text("type")
    if kind == "Sequence" and depth:
        for member in step.objects("pretokenizers"):
            yield from _steps(member, depth - 1)
    elif kind == "Split":
        pattern = step.fields("pattern").text("Regex")
        usual = step.text("behavior") == "Isolated" and not step.flag("invert", False)
        yield _our_spelling(pattern) if usual and pattern else "<unknown split>"
    elif kind == "Digits":
        yield _DIGITS[step.flag("individual_digits", False)]
    elif kind == "ByteLevel":
        if step.flag("add_prefix_space", True):
            yield "<space before the text>"
        if step.flag("use_regex", True):
            yield GPT2
    else:
        yield f"<{kind or 'nothing'}>"


def _our_spelling(pattern: str) -> str:
    """A published pattern as it stands among ours, line ends as escapes."""
    escaped = pattern.replace("\r", r"\r").replace("\n", r"\n")
    return _SPELLINGS.get(escaped, escaped)


def _written(tokenizer: Fields, steps: tuple[str, ...]) -> str:
    normalizer = tokenizer.fields("normalizer").text("type")
    parts = [f"normalizer {shown(normalizer)}"] if normalizer else []
    parts += [shown(step) for step in steps]
    return ", then ".join(parts) or "nothing"
