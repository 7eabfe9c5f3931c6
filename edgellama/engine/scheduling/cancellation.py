"""A flag that stops a running step: any thread sets it, and the executor reads it at every op.

The code that runs a step sets ``on_cancel``; the thread that cancels calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

CancelReason: TypeAlias = Literal["cancelled", "timeout"]


class CancelToken:
    """Cancels the steps and generations that it was given to. It stays cancelled.

    Example:
        >>> from edgellama import CancelToken
        >>> token = CancelToken()
        >>> token.cancel()
        >>> token.cancelled
        True
    """

    def __init__(self) -> None:
        self.flag: npt.NDArray[np.int64] = np.zeros(1, np.int64)
        self.reason: CancelReason = "cancelled"
        self.on_cancel: Callable[[], None] | None = None

    def cancel(self, reason: CancelReason = "cancelled") -> None:
        """Ask for the end, and return at once. Of several reasons, the first is kept."""
        if not self.flag[0]:
            self.reason = reason
        self.flag[0] = 1
        if (on_cancel := self.on_cancel) is not None:
            on_cancel()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` has been called."""
        return bool(self.flag[0])
