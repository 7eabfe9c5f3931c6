"""What config.json and quantize_config.json say about a quantization, as far as it is used.

They are only hints: an entry of a wrong type counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellama.convert.sources.checkpoint import Checkpoint
from edgellama.convert.sources.json_fields import MAX_SIZE, Fields, read_fields

GPTQ_FILE = "quantize_config.json"
META_FILE = "params.json"
META_KEYS = ("lora_args", "quantization_args")
USUAL_SIZE = 128
_LARGEST_POWER = 24


@dataclass(frozen=True)
class QuantizationSettings:
    """``block``: rows and columns that share a scale; ``group_size``: columns that do.

    ``bits``: of an integer; ``packed_bits``: those of compressed-tensors. ``gptq_format``: "gptq"
    or "gptq_v2"; ``is_symmetric``: whether zero points are all alike. ``adaptor_scale`` is that of
    Meta's adaptors, ``is_rotated`` whether the input of its last matrices is rotated, as SpinQuant
    does. ``linear_class``: BitNet's layer.
    """

    block: tuple[int, int] | None = None
    group_size: int | None = None
    bits: int | None = None
    gptq_format: str | None = None
    is_symmetric: bool | None = None
    adaptor_scale: float | None = None
    is_rotated: bool = False
    linear_class: str | None = None
    packed_bits: frozenset[int] = frozenset()


def read_settings(checkpoint: Checkpoint) -> QuantizationSettings:
    """What the checkpoint's files say."""
    found = checkpoint.parameters.get("quantization_config")
    if not isinstance(found, dict):
        found = dict(read_fields(checkpoint.folder / GPTQ_FILE).values)
    is_meta = checkpoint.kind == "meta"
    parameters = Fields(checkpoint.parameters, str(checkpoint.folder / META_FILE))
    adaptors, meta = (parameters.fields(name) if is_meta else Fields({}, "") for name in META_KEYS)
    return QuantizationSettings(
        block=_block(found),
        group_size=_size(found.get("group_size")),
        bits=_size(found.get("bits")),
        gptq_format=_text(found.get("checkpoint_format")),
        is_symmetric=_flag(found.get("sym")),
        linear_class=_text(found.get("linear_class")),
        packed_bits=_packed_bits(found),
        adaptor_scale=adaptors.positive("scale") if adaptors else None,
        # Meta has released Llamas with adaptors and others that SpinQuant made, which have none.
        is_rotated=bool(meta) and meta.flag("spinquant", not adaptors),
    )


def shared_size(length: int, count: int, hint: int | None) -> int | None:
    """How many of ``length`` items share one of ``count`` values, the last perhaps fewer.

    The hint, 128, a power of two, or an even share, the first that gives the count; None if
    none does.
    """
    if not 1 <= count <= length:
        return None
    powers = (1 << exponent for exponent in range(_LARGEST_POWER + 1))
    for size in (hint or length, USUAL_SIZE, *powers, -(-length // count)):
        if -(-length // size) == count:
            return size
    return None


def _block(settings: Mapping[str, object]) -> tuple[int, int] | None:
    value = settings.get("weight_block_size")
    sizes = [_size(item) for item in value] if isinstance(value, list) else []
    if len(sizes) != 2 or sizes[0] is None or sizes[1] is None:
        return None
    return sizes[0], sizes[1]


def _packed_bits(settings: Mapping[str, object]) -> frozenset[int]:
    """The ``num_bits`` of the weights of all groups."""
    groups = settings.get("config_groups")
    members = groups.values() if isinstance(groups, dict) else ()
    weights = [member.get("weights") for member in members if isinstance(member, dict)]
    found = (_size(args.get("num_bits")) for args in weights if isinstance(args, dict))
    return frozenset(bits for bits in found if bits is not None)


def _size(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIZE:
        return value
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
