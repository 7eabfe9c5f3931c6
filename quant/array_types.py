"""Types of arrays that many modules pass on.

They give the type of a number and the meaning of each axis. The content of an array is explained
where it is made.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatRows: TypeAlias = npt.NDArray[np.float32]
"""Numbers of tokens, a row for each: (tokens, numbers), or one row alone."""
Octets: TypeAlias = npt.NDArray[np.uint8]
"""Memory as bytes."""
