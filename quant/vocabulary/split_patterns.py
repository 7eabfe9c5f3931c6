"""Patterns that cut text into words before byte pairs are merged, by GGUF's names for them.

The names (``tokenizer.ggml.pre``) and their patterns are llama.cpp's. If it rewrites a tokenizer's
pattern for its own engine, this module has the published one. The engine cuts text by them, and the
converter recognises tokenizers by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.quant.records import dataclass


@dataclass(frozen=True)
class SplitRule:
    """Patterns applied one after the other, each to the pieces of the one before.

    What a pattern does not match stays as pieces of its own. ``takes_whole_words``: a word
    that is a token is taken as it is, without merging (Hugging Face's ``ignore_merges``).
    ``adds_bos``: what holds for a file that does not say whether a BOS is added.
    """

    patterns: tuple[str, ...]
    takes_whole_words: bool = False
    adds_bos: bool = False


DIGIT = r"\p{N}"
_DIGITS, _THREE_DIGITS = r"\p{N}+", r"\p{N}{1,3}"
_LINE_END = r"[\r\n]"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_SPACES = r"\s+(?!\S)|\s+"
_LINES_AND_SPACES = r"\s*[\r\n]+|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE_WORD = r"[^\r\n\p{L}\p{N}]?"
# A word ends where small letters are followed by capitals.
_CASED_WORDS = (
    _BEFORE_WORD + _UPPER + "*" + _LOWER + "+",
    _BEFORE_WORD + _UPPER + "+" + _LOWER + "*",
)

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES
LLAMA3 = "|".join((_CONTRACTIONS, _WORD, _THREE_DIGITS, _SIGNS, _LINES_AND_SPACES))
QWEN2 = "|".join((_CONTRACTIONS, _WORD, DIGIT, _SIGNS, _LINES_AND_SPACES))
TEKKEN = "|".join((*_CASED_WORDS, DIGIT, _SIGNS_AND_SLASH, _LINES_AND_SPACES))
GPT4O = "|".join(
    (
        *(f"{word}{_CONTRACTIONS}?" for word in _CASED_WORDS),
        *(_THREE_DIGITS, _SIGNS_AND_SLASH, _LINES_AND_SPACES),
    )
)
BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
BEFORE_THREES = r"(?=(?:\d{3})+(?!\d))"
# The published pattern has \b, which libraries understand differently.
THREES_TO_WORD_END = r"\d{1,3}(?=(?:\d{3})*(?![\p{L}\p{M}\p{N}\p{Pc}]))"
_QWEN35 = "|".join(
    (
        *(_CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", DIGIT),
        *(r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", _LINES_AND_SPACES),
    )
)
_JAIS2 = "|".join(
    (
        *(_CONTRACTIONS, _WORD, _THREE_DIGITS, _SIGNS, r"\s*[\r\n]+"),
        *(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4)),
        *(r"\s{1,2}(?!\S)", r"\s{1}"),
    )
)
_BAILING = "|".join(
    (
        *(r"'(?i:[sdmt]|ll|ve|re)", r"[^\r\n\p{L}\p{N}]?+\p{L}+", DIGIT),
        *(r" ?[^\s\p{L}\p{N}]++[\r\n]*", r"\s*[\r\n]", _SPACES),
    )
)
_SEED_CODER = "|".join(
    (_CONTRACTIONS, _WORD, DIGIT + "{1}", r" ?[^\s\p{L}\p{N}\r\n]+", _LINES_AND_SPACES)
)
_EXAONE_MOE = "|".join(
    (
        *(_CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+", DIGIT),
        *(r" ?[^\s\p{L}\p{N}]+[\r\n/]?", r"\s*[\r\n]", _SPACES),
    )
)
_MINICPM5 = "|".join((_CONTRACTIONS, _WORD, _DIGITS, _SIGNS, _LINES_AND_SPACES))
_UFAKZEKA = "|".join((_WORD, DIGIT, _SIGNS, _LINES_AND_SPACES))

# Letters that have cases.
_CASED_LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-"
    "\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-"
    "\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-"
    "\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f"
    "\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-"
    "\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_CHINESE_OR_KOREAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CHINESE_OR_JAPANESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_LLM = (
    _LINE_END,
    rf"\s?[{_CASED_LETTERS}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _CHINESE_OR_KOREAN,
    _DIGITS,
)
_DEEPSEEK_CODER = (_LINE_END, r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_OR_KOREAN, DIGIT)
_SIGN_AND_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK_V3 = (
    _THREE_DIGITS,
    _CHINESE_OR_JAPANESE,
    "|".join((_SIGN_AND_WORD, _MARKED_WORD, r" ?[\p{P}\p{S}]+[\r\n]*", _LINES_AND_SPACES)),
)
_SPARK = (
    _THREE_DIGITS,
    _CHINESE_OR_JAPANESE,
    "|".join((_SIGN_AND_WORD, _MARKED_WORD, r" ?[\p{P}\p{S}]+", _LINE_END, _SPACES)),
    DIGIT,
)
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+"
    "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    f"|[\u3105-\u312f]+|{_CHINESE_OR_JAPANESE}",
    "|".join(
        (
            *(f"{word}{_CONTRACTIONS}?" for word in _CASED_WORDS),
            *(DIGIT, _SIGNS_AND_SLASH, _LINES_AND_SPACES),
        )
    ),
)
_CHAMELEON = (
    r"<sentinel:[0-9]+>",
    r"(?:IMGIMG)(?:(?:A|B|C|D|E|F|G|H|I){1,4})Z",
    r"(?:[\t\n]|    |  )",
    DIGIT,
    r"[\p{P}!-/:-@\[-`{-~]",
    GPT2,
)

_LLAMA3_RULE = SplitRule((LLAMA3,), takes_whole_words=True, adds_bos=True)
_GPT2_RULE, _DIGITS_RULE = SplitRule((GPT2,)), SplitRule((DIGIT, GPT2))
_QWEN2_RULE, _BLOOM_RULE = SplitRule((QWEN2,)), SplitRule((BLOOM,))
_DEEPSEEK_V3_RULE, _GPT4O_RULE = SplitRule(_DEEPSEEK_V3), SplitRule((GPT4O,))
_BAILING_RULE = SplitRule((_BAILING,))
# The first name of several is the one that the converter gives.
_NAMES: tuple[tuple[SplitRule, tuple[str, ...]], ...] = (
    (
        _LLAMA3_RULE,
        (
            *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0"),
            *("lfm2", "jina-v5-nano"),
        ),
    ),
    # The same pattern, but words that are tokens are merged like any others, and no BOS is added.
    (SplitRule((LLAMA3,)), ("smaug-bpe", "dbrx", "chatglm-bpe")),
    (SplitRule((LLAMA3,), takes_whole_words=True), ("glm4", "glm5")),
    (SplitRule((TEKKEN,), takes_whole_words=True, adds_bos=True), ("tekken",)),
    (
        _GPT2_RULE,
        (
            *("gpt-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2", "gigachat"),
            *("a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "exaone4", "jina-es", "jina-de"),
            *("jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code"),
        ),
    ),
    (
        _DIGITS_RULE,
        (
            *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
            *("mellum2",),
        ),
    ),
    (
        _QWEN2_RULE,
        (
            *("qwen2", "stablelm2", "hunyuan", "solar-open", "grok-2", "deepseek-r1-qwen"),
            *("kormo", "f2llmv2", "megrez"),
        ),
    ),
    (SplitRule((_QWEN35,)), ("qwen35",)),
    (_GPT4O_RULE, ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2")),
    (SplitRule(_DEEPSEEK_LLM), ("deepseek-llm",)),
    (SplitRule(_DEEPSEEK_CODER), ("deepseek-coder",)),
    (_DEEPSEEK_V3_RULE, ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4")),
    (SplitRule(_SPARK), ("spark2_5",)),
    (SplitRule(_YOUTU, takes_whole_words=True), ("youtu",)),
    (_BLOOM_RULE, ("bloom", "poro-chat", "gpt3-finnish")),
    (SplitRule((BLOOM, DIGIT)), ("viking",)),
    (SplitRule((_SEED_CODER,)), ("seed-coder",)),
    (_BAILING_RULE, ("bailingmoe", "bailingmoe2", "llada-moe")),
    (SplitRule((_JAIS2,)), ("jais-2",)),
    (SplitRule((_DIGITS, BEFORE_THREES)), ("superbpe",)),
    (SplitRule((_THREE_DIGITS, _MINICPM5), takes_whole_words=True), ("minicpm5",)),
    (SplitRule((_EXAONE_MOE,)), ("exaone-moe",)),
    (SplitRule((_UFAKZEKA,)), ("ufakzeka",)),
    (SplitRule((THREES_TO_WORD_END, GPT4O)), ("tiny_aya", "cohere2moe")),
    (SplitRule(_CHAMELEON, adds_bos=True), ("chameleon",)),
    (SplitRule((r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9][0-9][0-9]")), ("falcon",)),
    (SplitRule((r"[\p{P}$+<=>^~|]+", GPT2, _DIGITS, r"[0-9][0-9][0-9]")), ("default",)),
)
SPLIT_RULES: Mapping[str, SplitRule] = MappingProxyType(
    {name: rule for rule, names in _NAMES for name in names}
)
"""By the value of ``tokenizer.ggml.pre``."""
OTHER_NAMES = (
    *("afmoe", "gemma4", "granite-embed-multi-311m", "granite-embed-multi-97m", "kimi-k2"),
    *("laguna", "sarvam-moe", "whitespace"),
)
"""Names that llama.cpp knows besides, all of other architectures than Llama."""
