"""Where edgellama keeps what it can make or fetch again: compiled kernels and pulled models."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "EDGELLAMA_CACHE"


def cache_root() -> Path:
    """The user's cache folder for edgellama; EDGELLAMA_CACHE overrides the platform's own."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override)
    from platformdirs import user_cache_path

    return user_cache_path("edgellama", appauthor=False)
