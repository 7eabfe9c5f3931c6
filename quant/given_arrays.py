"""Arrays of other libraries that a caller gives: torch's, JAX's, anything with DLPack or a buffer.

They are copied if NumPy cannot read them in place. The callers know which numbers are allowed.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_PROTOCOLS = ("__array__", "__array_interface__", "__dlpack__")


def given_array(value: object) -> npt.NDArray[Any] | None:
    """The numbers of an array of any library and layout; None for what is no array.

    Bytes are none. Gradients are left behind, and what NumPy has no type for becomes Python's
    numbers first.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, memoryview):
        return np.asarray(value) if value.itemsize > 1 else None
    # A class has the same methods as its objects, but is no array.
    if isinstance(value, type) or not any(hasattr(value, name) for name in _PROTOCOLS):
        return None
    detach = getattr(value, "detach", None)
    plain: Any = detach() if callable(detach) else value
    for read in (_through_numpy, lambda array: np.asarray(array.tolist())):
        try:
            return np.asarray(read(plain))
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
            continue
    return None


def _through_numpy(array: Any) -> npt.NDArray[Any]:
    if hasattr(array, "__array__") or hasattr(array, "__array_interface__"):
        return np.asarray(array)
    return np.from_dlpack(array)


def given_index(value: object) -> int | None:
    """A whole number as Python's, of an array's single number too; None for anything else."""
    if isinstance(value, (bool, np.bool_)):
        return None
    shape = getattr(value, "shape", ())
    if shape not in ((), (1,)):
        return None
    try:
        single: Any = value[0] if shape == (1,) else value  # type: ignore[index]
        return operator.index(single)
    except (TypeError, ValueError, RuntimeError):
        return None
