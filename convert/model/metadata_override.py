"""``KEY=VALUE`` on the command line as metadata: the type that a key has, or a guess.

Keys that the converter itself decides, and arrays of the tokenizer, are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gguf import GGUFValueType

from edgellama.convert.metadata import MetadataItem
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.sampling_keys import PREFIX, SAMPLING_KEYS

_KEY = re.compile(r"[a-z0-9_.-]+(\.[a-z0-9_.-]+)+", re.IGNORECASE)
_DECIDED = re.compile(r"general\.(architecture|file_type|quantization_version|alignment)|split\..*")
_TOKENIZER_ARRAYS = re.compile(r"tokenizer\.ggml\.(tokens|scores|token_type|merges|.*charsmap)")
_BOOLEANS = {"true": True, "false": False}
_RANGES: Mapping[GGUFValueType, tuple[int, int]] = MappingProxyType(
    {
        GGUFValueType.UINT8: (0, 2**8 - 1),
        GGUFValueType.INT8: (-(2**7), 2**7 - 1),
        GGUFValueType.UINT16: (0, 2**16 - 1),
        GGUFValueType.INT16: (-(2**15), 2**15 - 1),
        GGUFValueType.UINT32: (0, 2**32 - 1),
        GGUFValueType.INT32: (-(2**31), 2**31 - 1),
        GGUFValueType.UINT64: (0, 2**64 - 1),
        GGUFValueType.INT64: (-(2**63), 2**63 - 1),
    }
)
_SAMPLING: Mapping[str, GGUFValueType] = MappingProxyType(
    {
        PREFIX + entry.key: GGUFValueType.INT32 if entry.is_whole else GGUFValueType.FLOAT32
        for entry in SAMPLING_KEYS.values()
    }
)
_GUESSED_INTEGERS = (GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.INT64)


def parse_metadata(assignments: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` texts by key; InvalidOptionError for one that is none, or a key given twice."""
    found: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or key in found:
            raise InvalidOptionError(
                f"metadata {assignment!r}; allowed: KEY=VALUE, such as "
                "general.name=MyModel, each key once"
            )
        found[key] = value
    return found


def override_metadata(
    metadata: Mapping[str, MetadataItem], values: Mapping[str, object]
) -> dict[str, MetadataItem]:
    """``metadata`` with ``values`` put in; texts are read as what the key's type is.

    A key that is not there yet becomes a number where it recommends sampling, elsewhere under
    ``general.`` a text, and else what its text looks like: bool, integer, float.
    InvalidOptionError for keys and values that are not allowed.
    """
    result = dict(metadata)
    for key, value in values.items():
        _check_key(key, metadata)
        known = metadata.get(key)
        if known is not None:
            kinds: tuple[GGUFValueType, ...] = (known.type,)
        elif key in _SAMPLING:
            kinds = (_SAMPLING[key],)
        elif key.startswith("general.") or not isinstance(value, str):
            kinds = _kinds_of(value)
        else:
            kinds = (GGUFValueType.BOOL, *_GUESSED_INTEGERS, *_LAST_GUESSES)
        result[key] = _read(key, value, kinds)
    return result


_LAST_GUESSES = (GGUFValueType.FLOAT32, GGUFValueType.STRING)


def _check_key(key: str, metadata: Mapping[str, MetadataItem]) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidOptionError(f"metadata key {key!r}; allowed: names such as general.author")
    if _DECIDED.fullmatch(key):
        raise InvalidOptionError(f"metadata key {key} follows from the conversion itself")
    known = metadata.get(key)
    if _TOKENIZER_ARRAYS.fullmatch(key) or (known and known.type == GGUFValueType.ARRAY):
        raise InvalidOptionError(f"metadata key {key} is an array; allowed: single values")


def _kinds_of(value: object) -> tuple[GGUFValueType, ...]:
    if isinstance(value, bool):
        return (GGUFValueType.BOOL,)
    if isinstance(value, int):
        return _GUESSED_INTEGERS
    return (GGUFValueType.FLOAT32 if isinstance(value, float) else GGUFValueType.STRING,)


def _read(key: str, value: object, kinds: Sequence[GGUFValueType]) -> MetadataItem:
    for kind in kinds:
        found = _READERS.get(kind, _integer)(value, kind)
        if found is not None:
            return MetadataItem(found, kind)
    raise InvalidOptionError(f"metadata {key}={value}; allowed: a value of type {kinds[0].name}")


def _boolean(value: object, kind: GGUFValueType) -> bool | None:
    return value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())


def _integer(value: object, kind: GGUFValueType) -> int | None:
    try:
        number = int(str(value))
    except ValueError:
        return None
    lowest, highest = _RANGES[kind]
    return number if lowest <= number <= highest else None


def _float(value: object, kind: GGUFValueType) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _string(value: object, kind: GGUFValueType) -> str:
    return str(value)


_READERS: Mapping[GGUFValueType, Callable[[object, GGUFValueType], object]] = MappingProxyType(
    {
        GGUFValueType.BOOL: _boolean,
        GGUFValueType.FLOAT32: _float,
        GGUFValueType.FLOAT64: _float,
        GGUFValueType.STRING: _string,
    }
)
