"""Reads generation_config.json: further tokens that end a text, and recommended sampling.

Meta's own files have none. The engine knows what becomes of both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.sources.json_fields import Fields
from edgellama.quant.error_text import shown
from edgellama.quant.sampling_keys import PREFIX, SAMPLING_KEYS
from edgellama.quant.vocabulary.special_tokens import END_TOKENS_KEY

FILE = "generation_config.json"
_END_ROLES = ("eos", "eot", "eom")
# transformers' names for the options; vLLM writes -1 for a top_k that is off.
_FIELDS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}
_log = logging.getLogger(__name__)


def end_token_items(
    configs: Sequence[Fields], special_ids: Mapping[str, int], vocab_size: int
) -> dict[str, MetadataItem]:
    """The keys for every id that ``eos_token_id`` lists in config.json or generation_config.json.

    ``special_ids``: the roles that the vocabulary has given already. Ids beyond ``vocab_size``
    are left out with a warning.
    """
    ids = list(dict.fromkeys(token for config in configs for token in _end_ids(config, vocab_size)))
    items = {}
    if ids and "eos" not in special_ids:
        items["tokenizer.ggml.eos_token_id"] = metadata.unsigned(ids[0])
    known = {special_ids[role] for role in _END_ROLES if role in special_ids}
    known |= set(ids[:1]) if items else set()
    more = [token for token in ids if token not in known]
    if more:
        items[END_TOKENS_KEY] = metadata.integers(more)
    return items


def sampling_items(generation: Fields) -> dict[str, MetadataItem]:
    """The keys for the sampling that generation_config.json recommends.

    ``do_sample`` false means that the likeliest token is always taken, as transformers does; a
    file that is silent about it recommends what it lists. Values that make no sense are left out
    with a warning.
    """
    if generation.has("do_sample") and not generation.flag("do_sample", True):
        values: dict[str, object] = {"temperature": 0.0}
        penalty = generation.values.get(_FIELDS["repeat_penalty"])
        values |= {} if penalty is None else {"repeat_penalty": penalty}
    else:
        given = {option: generation.values.get(field) for option, field in _FIELDS.items()}
        values = {option: value for option, value in given.items() if value is not None}
    if values.get("top_k") == -1:
        values["top_k"] = 0
    items = {}
    for option, value in values.items():
        key = SAMPLING_KEYS[option]
        number = key.checked(value)
        if number is None:
            _log.warning(
                "%s: %s is %s, which is left out; allowed: %s",
                *(generation.source, _FIELDS[option], shown(value), key.words),
            )
        else:
            make = metadata.integer if key.is_whole else metadata.number
            items[PREFIX + key.key] = make(number)
    return items


def _end_ids(config: Fields, vocab_size: int) -> Iterator[int]:
    """The ids that one file lists; those below 0 stand for none."""
    value = config.values.get("eos_token_id")
    for token in value if isinstance(value, list) else [value]:
        if token is None:
            continue
        if not isinstance(token, int) or isinstance(token, bool):
            raise config.error("eos_token_id", "a token id, or a list of them")
        if token >= vocab_size:
            _log.warning(
                "%s: eos_token_id %d is left out, because the vocabulary has %d tokens",
                *(config.source, token, vocab_size),
            )
        elif token >= 0:
            yield token
