"""What OpenAI's text endpoints share: usage, reasons of the end, limits, how a stream ends.

Fields and answers of each endpoint are left to its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgellama.server.errors import refused

if TYPE_CHECKING:
    from edgellama.generation.results import Generation
    from edgellama.server.settings import Limits

FINISH_REASONS = {"stop": "stop", "tool_calls": "tool_calls", "cancelled": "stop"}
"""In OpenAI's words; every other reason means that the text is not whole: "length"."""


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def wants_usage(options: StreamOptions | None) -> bool:
    """Whether a stream is to end with the counts."""
    return bool(options and options.include_usage)


def usage(results: Sequence[Generation], *, is_predicted: bool = False) -> dict[str, Any]:
    """Tokens of the prompt, once, and of all texts; with a prediction, how good that was."""
    counts = [result.usage for result in results]
    prompt = counts[0].prompt_tokens if counts else 0
    completion = sum(each.generated_tokens for each in counts)
    cached = min((each.cached_tokens for each in counts), default=0)
    figures = [result.statistics for result in results] if is_predicted else []
    accepted = sum(each.accepted_tokens for each in figures)
    drafted = sum(each.drafted_tokens for each in figures)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(each.reasoning_tokens for each in counts),
            "audio_tokens": 0,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def finish_reason(result: Generation) -> str:
    """Why a text ended, in OpenAI's words."""
    return FINISH_REASONS.get(result.finish_reason, "length")


def model_stream_end() -> bytes:
    """What closes every stream of OpenAI's older endpoints."""
    return b"data: [DONE]\n\n"


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
