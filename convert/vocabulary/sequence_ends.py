"""Whether encoding puts BOS before a text and EOS behind it, by all the files that may say so.

``tokenizer_settings`` knows which tokens these are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.tokenizer_settings import GENERIC_CLASSES, TokenizerSettings
from edgellama.convert.vocabulary.vocabulary import Token
from edgellama.quant.error_text import shown

MAX_DEPTH = 8
_PAIRS = ("BertProcessing", "RobertaProcessing")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Template:
    """The tokens that a post-processor puts before and behind a text; None for none."""

    first: str | None = None
    last: str | None = None


def bos_and_eos(
    settings: TokenizerSettings,
    ids: dict[str, int],
    tokens: Sequence[Token],
    *,
    is_sentencepiece: bool,
) -> dict[str, bool]:
    """``add_bos_token`` and ``add_eos_token``.

    As in transformers, ``add_bos_token`` of tokenizer_config.json is obeyed by Llama's own
    tokenizer classes, and where there is no tokenizer.json; for all other classes the
    post-processor of tokenizer.json decides alone. Where nobody says, SentencePiece gets a BOS
    unless its class is one of those that leave it to the post-processor.
    A post-processor that adds a token of its own declares it to be BOS or EOS; where another token
    is EOS, as Qwen3-Embedding says of the end of a turn, that one becomes the end of turns.
    """
    template = _template(settings.tokenizer.fields("post_processor"), MAX_DEPTH)
    by_text = {token.text: index for index, token in enumerate(tokens)}
    ends = {} if template is None else {"bos": template.first, "eos": template.last}
    for role, text in ends.items():
        if text in by_text:
            ids.setdefault(role, by_text[text])
    adds = {}
    obeys = settings.is_llama_class or not settings.tokenizer
    for role in ("bos", "eos"):
        declared = settings.flag(f"add_{role}_token") if obeys else None
        if declared is None and template is not None:
            if role == "eos" and (last := by_text.get(template.last or "")) is not None:
                ids.setdefault("eot", ids[role])
                ids[role] = last
            declared = _adds(role, ends[role], ids, by_text, settings.tokenizer.source)
        if declared is None:
            is_generic = settings.tokenizer_class in GENERIC_CLASSES
            declared = role == "bos" and is_sentencepiece and not is_generic
        adds[f"add_{role}_token"] = role in ids and declared
    return adds


def _adds(
    role: str, text: str | None, ids: Mapping[str, int], by_text: Mapping[str, int], source: str
) -> bool:
    """Whether a template adds the token of a role; other tokens GGUF has no key for."""
    if text is None:
        return False
    if text in by_text and ids.get(role) == by_text[text]:
        return True
    _log.warning(
        "%s: the post-processor adds %s, which is not the %s token; it is left out",
        *(source, shown(text), role.upper()),
    )
    return False


def _template(processor: Fields, depth: int) -> _Template | None:
    """What a post-processor adds; None for one that says nothing about it."""
    kind = processor.text("type")
    if kind == "Sequence" and depth:
        members = (_template(member, depth - 1) for member in processor.objects("processors"))
        found = [member for member in members if member is not None]
        if not found:
            return None
        first = next((member.first for member in found if member.first is not None), None)
        return _Template(first, next((m.last for m in found if m.last is not None), None))
    if kind in _PAIRS:
        pairs = (processor.items(name)[:1] for name in ("cls", "sep"))
        return _Template(*(str(pair[0]) if pair else None for pair in pairs))
    if kind != "TemplateProcessing":
        return None
    parts = [part.fields("SpecialToken").text("id") for part in processor.objects("single")]
    return _Template(parts[0], parts[-1]) if len(parts) > 1 else _Template()
