"""The server's own limits, applied to the options of a request.

``settings`` holds the limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellama.server.errors import refused

if TYPE_CHECKING:
    from edgellama.server.settings import Limits


def hold_limits(options: dict[str, Any], limits: Limits) -> None:
    """Keep the options of a text below the server's own limits; RequestError for more tokens."""
    if limits.max_seconds is not None and isinstance(options.get("timeout", 0), (int, float)):
        options["timeout"] = min(options.get("timeout", limits.max_seconds), limits.max_seconds)
    wanted = options.get("max_tokens")
    if limits.max_tokens is None:
        return
    if wanted is None:
        options["max_tokens"] = limits.max_tokens
    elif isinstance(wanted, int) and wanted > limits.max_tokens:
        raise refused("max_tokens", f"max_tokens is {wanted}; allowed: up to {limits.max_tokens}")


def check_num_texts(number: int, limits: Limits) -> None:
    """RequestError for an impossible number of texts."""
    if not 1 <= number <= limits.max_texts:
        raise refused("n", f"n is {number}; allowed: 1 to {limits.max_texts}")
