"""Sizes in bytes that the host and the kernels must agree on, each written once.

Plain numbers and plain functions, which kernels inline: neither numba nor NumPy is imported here.
"""

from __future__ import annotations

CACHE_LINE = 64
"""Bytes that cores exchange at a time."""
SELECTION_GROUP = 64
"""Logits that are compared at once where a token is chosen."""
