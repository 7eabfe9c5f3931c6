"""From the way a tokenizer.json cuts text into words to GGUF's name for it.

GGUF holds no patterns but a name (``tokenizer.ggml.pre``) that its readers know. Here the steps
of ``pre_tokenizer`` are compared with those that stand behind the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.quant.vocabulary.split_patterns import LLAMA3, TEKKEN

Step = tuple[str, ...]
"""A step by its kind: ("split", pattern), ("digits", "individual") or ("byte level", "gpt2")."""

_GPT2: Step = ("byte level", "gpt2")
NAMES: Mapping[tuple[Step, ...], str] = MappingProxyType(
    {
        (("split", LLAMA3),): "llama-bpe",
        (("split", TEKKEN),): "tekken",
        (_GPT2,): "gpt-2",
        (("digits", "individual"), _GPT2): "smollm",
    }
)
MERGED_NAMES: Mapping[str, str] = MappingProxyType({"llama-bpe": "smaug-bpe"})
"""Where words that are tokens are merged like any others, the same pattern has another name."""
MAX_DEPTH = 8
# What --pre may name: the patterns that readers of GGUF files know and that Llamas come with.
KNOWN_NAMES = (
    *("default", "gpt-2", "llama-bpe", "smollm", "tekken", "qwen2"),
    *("deepseek-llm", "deepseek-coder", "deepseek-v3", "starcoder", "refact", "command-r"),
    *("falcon", "mpt", "olmo", "dbrx", "stablelm2", "smaug-bpe", "poro-chat", "viking"),
    *("jais", "codeshell", "chatglm-bpe", "bloom", "gpt3-finnish", "exaone", "minerva-7b"),
    *("gpt-4o", "superbpe", "trillion", "granite-docling", "seed-coder", "hunyuan", "llama4"),
)


def split_pattern_name(tokenizer: Fields, pre: str | None) -> str:
    """The value of ``tokenizer.ggml.pre`` for a byte-level tokenizer.json.

    ``pre`` decides where it is given. InvalidOptionError if no reader knows it,
    UnsupportedModelError for steps without a name.
    """
    if pre is not None:
        return checked_name(pre)
    steps = tuple(_steps(tokenizer.fields("pre_tokenizer"), MAX_DEPTH))
    name = NAMES.get(steps)
    if name is None or (
        tokenizer.fields("normalizer") and not _does_nothing(tokenizer.fields("normalizer"))
    ):
        raise UnsupportedModelError(
            f"{tokenizer.source}: text is cut into words by {_written(tokenizer, steps)}, which "
            f"is not recognised; recognised: {', '.join(NAMES.values())}; "
            "if you know the name that llama.cpp has for it, give it with --pre NAME"
        )
    takes_whole_words = tokenizer.fields("model").flag("ignore_merges", False)
    return name if takes_whole_words else MERGED_NAMES.get(name, name)


def checked_name(pre: str) -> str:
    """A name that readers know; InvalidOptionError for any other."""
    if pre not in KNOWN_NAMES:
        raise InvalidOptionError(f"--pre {shown(pre)}; allowed: {', '.join(KNOWN_NAMES)}")
    return pre


def _does_nothing(normalizer: Fields) -> bool:
    return normalizer.text("type") == "Sequence" and not normalizer.items("normalizers")


def is_byte_level(tokenizer: Fields) -> bool:
    """Whether a tokenizer.json writes bytes as GPT-2 does."""
    decoder = tokenizer.fields("decoder")
    members = [decoder, *decoder.objects("decoders")]
    return any(member.text("type") == "ByteLevel" for member in members)


def _steps(step: Fields, depth: int) -> Iterator[Step]:
    """A pre-tokenizer and those inside it, in order, without those that change nothing."""
    kind = step.text("type")
    if kind == "Sequence" and depth:
        for member in step.objects("pretokenizers"):
            yield from _steps(member, depth - 1)
    elif kind == "Split":
        pattern = step.fields("pattern").text("Regex")
        usual = step.text("behavior") == "Isolated" and not step.flag("invert", False)
        yield ("split", pattern) if usual and pattern else ("unknown split",)
    elif kind == "Digits":
        yield ("digits", "individual" if step.flag("individual_digits", False) else "together")
    elif kind == "ByteLevel":
        if step.flag("add_prefix_space", True):
            yield ("space before the text",)
        if step.flag("use_regex", True):
            yield _GPT2
    else:
        yield (kind or "nothing",)


def _written(tokenizer: Fields, steps: tuple[Step, ...]) -> str:
    normalizer = tokenizer.fields("normalizer").text("type")
    parts = [f"normalizer {shown(normalizer)}"] if normalizer else []
    parts += [shown(step[-1]) for step in steps]
    return ", then ".join(parts) or "nothing"
