"""Usage, finish reasons and the end of a stream, as both of OpenAI's older endpoints have them.

``chat`` and ``completions`` know the fields and answers of their endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edgellama.generation.results import Generation

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
