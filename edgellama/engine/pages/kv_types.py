"""Number types of a KV cache, one for keys and one for values: names, and bytes per position.

The kernels define the types (``signatures.CACHE_NUMBER_BITS``).
"""

from __future__ import annotations

from typing import TypeAlias

from edgellama.kernels_cpu.layouts import CACHE_SCALE_BYTES
from edgellama.kernels_cpu.signatures import CACHE_NUMBER_BITS, CACHE_SCALE_ELEMENTS, CACHE_TYPES
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass

KVTypeChoice: TypeAlias = str | tuple[str, str]
"""What users write: "f16" for both, "q8_0/q4_0" or ("q8_0", "q4_0") for keys and for values."""
SEPARATOR = "/"


@dataclass(frozen=True)
class KVTypes:
    """The types of keys and of values, checked; ``str()`` gives the short form."""

    keys: str
    values: str

    def __post_init__(self) -> None:
        for name in (self.keys, self.values):
            if name not in CACHE_TYPES:
                raise InvalidOptionError(
                    f"KV type {name!r}; allowed: {', '.join(CACHE_TYPES)}, "
                    f"or one for keys and one for values such as q8_0{SEPARATOR}q4_0"
                )

    @classmethod
    def of(cls, choice: KVTypeChoice) -> KVTypes:
        """The types that a user's choice means. Raises InvalidOptionError."""
        if isinstance(choice, str):
            parts = choice.split(SEPARATOR)
        else:
            parts = list(choice) if isinstance(choice, (tuple, list)) else []
        if len(parts) == 1:
            parts *= 2
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise InvalidOptionError(
                f"KV type {choice!r}; allowed: one type, or one for keys and one for values"
            )
        return cls(*parts)

    def __str__(self) -> str:
        return self.keys if self.keys == self.values else f"{self.keys}{SEPARATOR}{self.values}"

    @property
    def pair(self) -> tuple[str, str]:
        """The types of keys and of values, which kernels are compiled for."""
        return self.keys, self.values

    def position_bytes(self, head_size: int) -> int:
        """Bytes of one head's key and value at one position, without padding."""
        return row_bytes(self.keys, head_size) + row_bytes(self.values, head_size)


def row_bytes(kind: str, head_size: int) -> int:
    """Bytes of ``head_size`` numbers and their scales."""
    return -(-head_size * CACHE_NUMBER_BITS[kind] // 8) + scale_bytes(kind, head_size)


def scale_bytes(kind: str, head_size: int) -> int:
    """Bytes of the scales of ``head_size`` numbers; 0 for types without."""
    elements = CACHE_SCALE_ELEMENTS.get(kind)
    return 0 if elements is None else -(-head_size // elements) * CACHE_SCALE_BYTES
