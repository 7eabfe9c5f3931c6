"""Where a checkpoint's SentencePiece text gets a space in front, by all the files that may say so.

These are tokenizer_config.json (``legacy``, ``add_prefix_space``), the steps of tokenizer.json, and
tokenizer.model itself. ``quant.vocabulary.space_rules`` defines the rules.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.tokenizer_settings import GENERIC_CLASSES, TokenizerSettings
from edgellama.quant.vocabulary.space_rules import ALWAYS, FIRST, NEVER, SCHEMES, SpaceRules

SPACE_SYMBOL = "\N{LOWER ONE EIGHTH BLOCK}"
MAX_DEPTH = 8
# Steps by which transformers 5 says what sentencepiece does with spaces at the ends and in runs.
_REMOVALS = {r"\A +| +\z": "", " {2,}": " "}
# The step by which a text that begins with a space gets one more, which Metaspace does not give.
_DOUBLED = (r"\A" + SPACE_SYMBOL, 2 * SPACE_SYMBOL)


@dataclass(frozen=True)
class TextRules:
    """What becomes of text: spaces, and other characters by ``charsmap``, as sentencepiece has it.

    ``normalizer``: of AddedTokenRules. ``user_defined``: pieces that sentencepiece finds itself.
    ``normalizes``: false where tokens marked as normalized are looked for like all others, as
    transformers 5 decides for a tokenizer.model that puts a space before text.
    """

    spaces: SpaceRules
    normalizer: str = ""
    charsmap: bytes = b""
    user_defined: frozenset[str] = frozenset()
    normalizes: bool = True


class UnknownStep(Exception):
    """A step of tokenizer.json that SentencePiece has no words for; the text names it."""


def text_rules(settings: TokenizerSettings, model: TextRules | None) -> TextRules:
    """The rules of a folder; ``model``: those of its tokenizer.model, None without one.

    As transformers 5 reads them: Llama's own tokenizer classes obey tokenizer_config.json, and
    what it leaves open tokenizer.json says; all other classes obey tokenizer.json; without it,
    tokenizer.model is run as sentencepiece does. UnknownStep where nothing else is left.
    """
    try:
        steps = steps_of(settings.tokenizer) if settings.tokenizer else None
    except UnknownStep:
        if model is None:
            raise
        steps = None
    adds, legacy = settings.flag("add_prefix_space"), settings.flag("legacy")
    if settings.is_llama_class and (steps is None or adds is not None or legacy is not None):
        return TextRules(_of_llama_class(adds, legacy, steps))
    if steps is not None:
        return steps
    assert model is not None, "a folder with neither tokenizer.json nor tokenizer.model"
    if settings.tokenizer_class in GENERIC_CLASSES:
        adds = None
    return replace(
        model,
        spaces=_of_model(adds, legacy, model.spaces),
        normalizer="replace",
        normalizes=not model.spaces.adds_space,
    )


def _of_llama_class(adds: bool | None, legacy: bool | None, steps: TextRules | None) -> SpaceRules:
    if adds is None:
        adds = steps is None or steps.spaces.adds_space
    if legacy is None:
        legacy = steps is not None and steps.spaces.scheme in (ALWAYS, None)
    scheme = NEVER if not adds else ALWAYS if legacy else FIRST
    return SpaceRules(adds_space=adds, scheme=scheme, strips_space=adds)


def _of_model(adds: bool | None, legacy: bool | None, model: SpaceRules) -> SpaceRules:
    adds = model.adds_space if adds is None else adds
    scheme = None if legacy is not False else FIRST if adds else NEVER
    return SpaceRules(
        adds_space=adds,
        removes_spaces=model.removes_spaces,
        scheme=scheme,
        strips_space=adds or model.removes_spaces,
    )


def steps_of(tokenizer: Fields) -> TextRules:
    """The rules that the steps of a tokenizer.json make; UnknownStep for any others."""
    prepends = replaces = doubles = removes = splits = False
    scheme: str | None = None
    charsmap, user_defined = b"", frozenset[str]()
    for step in _members(tokenizer.fields("normalizer"), "normalizers", MAX_DEPTH):
        kind, content = step.text("type"), step.text("content")
        pattern = step.fields("pattern")
        text, expression = pattern.text("String"), pattern.text("Regex")
        if kind == "Prepend" and step.text("prepend") == SPACE_SYMBOL:
            prepends = True
        elif kind == "Replace" and (text, content) == (" ", SPACE_SYMBOL):
            replaces = True
        elif kind == "Replace" and (expression, content) == _DOUBLED:
            doubles = True
        elif kind == "Replace" and expression in _REMOVALS and content == _REMOVALS[expression]:
            removes = True
        elif kind == "Precompiled":
            charsmap = _charsmap(step)
        else:
            raise UnknownStep(kind)
    for step in _members(tokenizer.fields("pre_tokenizer"), "pretokenizers", MAX_DEPTH):
        if step.text("type") == "Split":
            user_defined = _isolated(step, tokenizer.fields("model").fields("vocab"))
        elif step.text("type") == "Metaspace" and step.text("replacement") == SPACE_SYMBOL:
            scheme, splits = _scheme(step), step.flag("split", True)
        else:
            raise UnknownStep(step.text("type"))
    if scheme is None or (doubles and scheme == ALWAYS):
        scheme = None if prepends or doubles else NEVER
    adds = scheme != NEVER
    default = adds or removes
    spaces = SpaceRules(
        adds_space=adds,
        removes_spaces=removes,
        scheme=scheme,
        splits_words=splits,
        strips_space=_strips(tokenizer.fields("decoder"), default),
    )
    normalizer = "prepend" if prepends else "replace" if replaces else ""
    return TextRules(spaces, normalizer, charsmap, user_defined)


def _charsmap(step: Fields) -> bytes:
    try:
        return base64.b64decode(step.text("precompiled_charsmap") or "", validate=True)
    except (binascii.Error, ValueError):
        raise step.error("precompiled_charsmap", "base64") from None


def _isolated(step: Fields, vocab: Fields) -> frozenset[str]:
    """The pieces that a split sets apart, as transformers 5 writes user-defined ones."""
    expression = step.fields("pattern").text("Regex") or ""
    texts = [re.sub(r"\\(.)", r"\1", part, flags=re.S) for part in expression.split("|")]
    plain = "|".join(map(re.escape, texts)) == expression
    if (
        step.text("behavior") != "Isolated"
        or not plain
        or any(t not in vocab.values for t in texts)
    ):
        raise UnknownStep("Split")
    return frozenset(texts)


def _scheme(step: Fields) -> str:
    """The scheme of a Metaspace or its decoder; older files have a flag in its place."""
    scheme = step.text("prepend_scheme")
    if scheme is None:
        return ALWAYS if step.flag("add_prefix_space", True) else NEVER
    if scheme not in SCHEMES:
        raise step.error("prepend_scheme", ", ".join(SCHEMES))
    return scheme


def _strips(decoder: Fields, default: bool) -> bool:
    """Whether decoding takes a first space away; the default for a decoder of another kind."""
    makes_spaces = False
    for step in _members(decoder, "decoders", MAX_DEPTH):
        kind = step.text("type")
        if kind == "Metaspace":
            return _scheme(step) != NEVER
        if kind == "Strip" and step.text("content") == " ":
            return step.values.get("start") not in (None, 0)
        makes_spaces |= kind == "Replace" and step.text("content") == " "
    return default and not makes_spaces


def _members(step: Fields, name: str, depth: int) -> Iterator[Fields]:
    """A step, or those of a sequence."""
    if step.text("type") == "Sequence" and depth:
        for member in step.objects(name):
            yield from _members(member, name, depth - 1)
    elif step:
        yield step
