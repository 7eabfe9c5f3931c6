"""How far something has come, as it is told to who asked for it.

The type alone: what is counted, bytes or steps, is said by each call that takes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and with the total."""
