"""The list of models as Anthropic's clients read it, at the path that they share with OpenAI's.

A header tells which of the two asks. The catalogue knows which models there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from edgellama.server.errors import ANTHROPIC_HEADER

if TYPE_CHECKING:
    from starlette.requests import Request

    from edgellama.server.models.catalogue import ServedModel


def is_anthropic(request: Request) -> bool:
    """Whether a client of Anthropic's asks."""
    return ANTHROPIC_HEADER in request.headers


def model_info(model: ServedModel, context_length: int | None) -> dict[str, Any]:
    """One model, with the context that it has here."""
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.facts.title or model.name,
        "created_at": datetime.fromtimestamp(int(model.modified), timezone.utc).isoformat(),
        "lifecycle": "active",
        "max_input_tokens": context_length,
    }


def model_page(data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All models as the only page."""
    return {
        "data": [*data],
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
