"""Types of arrays that many modules pass on.

They say the type of a number and what an axis is; what is in an array is said where it is made.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatRows: TypeAlias = npt.NDArray[np.float32]
"""Numbers of tokens, a row for each: (tokens, numbers), or one row alone."""
Octets: TypeAlias = npt.NDArray[np.uint8]
"""Memory as bytes."""
