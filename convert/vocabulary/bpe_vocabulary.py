"""The vocabulary of a byte-level BPE in Hugging Face's ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Iterator

from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.vocabulary.split_pattern_names import MAX_DEPTH, split_pattern_name
from edgellama.convert.vocabulary.tokenizer_settings import (
    TokenizerSettings,
    looks_special,
    special_ids,
)
from edgellama.convert.vocabulary.vocabulary import (
    MAX_TOKENS,
    Token,
    TokenTable,
    Vocabulary,
)
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.vocabulary.vocabulary import TokenType

# How a space is written where byte-level BPE has no spaces.
_SPACE_STAND_IN = "\u0120"


def bpe_vocabulary(settings: TokenizerSettings, num_rows: int, pre: str | None) -> Vocabulary:
    """What GGUF holds of the tokenizer; ``pre`` as in split_pattern_name."""
    tokenizer = settings.tokenizer
    name = split_pattern_name(tokenizer, pre)
    table = TokenTable(tokenizer.source)
    for text, token in vocabulary_entries(tokenizer.fields("model")):
        table.put(token, Token(text, TokenType.NORMAL))
    for added in settings.added_tokens():
        special = added.special or looks_special(added.text)
        kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
        table.put(added.id, Token(added.text, kind))
    tokens = table.finished(num_rows)
    ids = special_ids(settings, {token.text: index for index, token in enumerate(tokens)}, {})
    return Vocabulary(
        model="gpt2",
        pre=name,
        tokens=[token.text for token in tokens],
        types=[token.type for token in tokens],
        merges=[" ".join(pair) for pair in merge_pairs(tokenizer.fields("model"))],
        special_ids=ids,
        settings=bos_and_eos(settings, ids, tokens) | {"add_space_prefix": False},
    )


def vocabulary_entries(model: Fields) -> Iterator[tuple[str, int]]:
    """Texts and ids of ``model.vocab``."""
    vocab = model.fields("vocab")
    if not vocab:
        raise model.error("vocab", "an object with at least one token")
    try:
        "".join(vocab.values).encode()
    except UnicodeEncodeError:
        raise ModelFileError(
            f"{model.source}: {model.prefix}vocab holds lone surrogates; allowed: Unicode text"
        ) from None
    for text, token in vocab.values.items():
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < MAX_TOKENS:
            raise vocab.error(text, f"a token id from 0 to {MAX_TOKENS - 1}")
        yield text, token


def merge_pairs(model: Fields) -> list[tuple[str, str]]:
    """The merges in order, from either way to write them; spaces become their stand-in."""
    pairs = []
    for merge in model.items("merges"):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (
            isinstance(parts, list)
            and len(parts) == 2
            and all(isinstance(part, str) and part for part in parts)
        ):
            raise ModelFileError(
                f"{model.source}: {model.prefix}merges holds {shown(merge)}; "
                "allowed: two texts with a space between, or a list of two"
            )
        left, right = (part.replace(" ", _SPACE_STAND_IN) for part in parts)
        pairs.append((left, right))
    try:
        "".join(left + right for left, right in pairs).encode()
    except UnicodeEncodeError:
        raise ModelFileError(
            f"{model.source}: {model.prefix}merges holds lone surrogates; allowed: Unicode text"
        ) from None
    return pairs


def bos_and_eos(
    settings: TokenizerSettings, ids: dict[str, int], tokens: list[Token]
) -> dict[str, bool]:
    """Whether encoding adds BOS and EOS: as tokenizer_config.json or the post-processor says.

    A post-processor that adds a token of its own declares it to be BOS or EOS.
    """
    first, last = _template_ends(settings.tokenizer.fields("post_processor"), MAX_DEPTH)
    by_text = {token.text: index for index, token in enumerate(tokens)}
    for role, text in (("bos", first), ("eos", last)):
        if text in by_text:
            ids.setdefault(role, by_text[text])
    adds = {}
    for role, text in (("bos", first), ("eos", last)):
        declared = settings.flag(f"add_{role}_token")
        by_template = role in ids and by_text.get(text or "") == ids[role]
        adds[f"add_{role}_token"] = role in ids and (by_template if declared is None else declared)
    return adds


def _template_ends(processor: Fields, depth: int) -> tuple[str | None, str | None]:
    """The special tokens that a post-processor puts before and after a text."""
    if processor.text("type") == "Sequence" and depth:
        ends = [_template_ends(member, depth - 1) for member in processor.objects("processors")]
        first = next((first for first, _ in ends if first is not None), None)
        return first, next((last for _, last in ends if last is not None), None)
    if processor.text("type") != "TemplateProcessing":
        return None, None
    parts = list(processor.objects("single"))
    if len(parts) < 2:
        return None, None
    return (
        parts[0].fields("SpecialToken").text("id"),
        parts[-1].fields("SpecialToken").text("id"),
    )
