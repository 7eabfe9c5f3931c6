"""How many tokens a step takes at most: plain numbers, that a command line can tell at once."""

from __future__ import annotations

MAX_STEP_TOKENS = 512
MAX_SHORT_TOKENS = 12
"""Up to here reading the blocks where they lie is faster than expanding them."""
