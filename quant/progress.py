"""The type of a callback that reports progress.

Each call that takes one says what is counted, such as bytes or steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and with the total."""
