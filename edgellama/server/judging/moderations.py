"""OpenAI's moderations, answered by a Llama Guard: its categories become OpenAI's where one fits.

``generation.judging.moderation`` asks the model.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgellama.generation.chat.messages import content_text
from edgellama.generation.judging.moderation import Moderation
from edgellama.server.answers.leaving import Leaving
from edgellama.server.answers.routing import Routes, read_request, state_of
from edgellama.server.answers.turns import in_turn
from edgellama.server.connections.wire import json_response
from edgellama.server.errors import RequestError
from edgellama.server.fields.fields import take_own_fields

if TYPE_CHECKING:
    from edgellama.llama import Llama
    from edgellama.server.answers.state import ServerState

OPENAI_CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit"),
    *("illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent"),
    *("sexual", "sexual/minors", "violence", "violence/graphic"),
)
MEANINGS: Mapping[str, tuple[str, ...]] = {
    "violentcrimes": ("violence", "illicit/violent"),
    "violenceandhate": ("violence", "hate"),
    "nonviolentcrimes": ("illicit",),
    "criminalplanning": ("illicit",),
    "regulatedorcontrolledsubstances": ("illicit",),
    "gunsandillegalweapons": ("illicit/violent",),
    "indiscriminateweapons": ("illicit/violent",),
    "sexcrimes": ("sexual", "illicit"),
    "sexrelatedcrimes": ("sexual", "illicit"),
    "childexploitation": ("sexual/minors",),
    "childsexualexploitation": ("sexual/minors",),
    "sexualcontent": ("sexual",),
    "defamation": ("harassment",),
    "hate": ("hate",),
    "selfharm": ("self-harm",),
    "suicideandselfharm": ("self-harm",),
    "codeinterpreterabuse": ("illicit",),
}
"""By the letters of Llama Guard's names; others have no counterpart, and stand for themselves."""
MAX_INPUTS = 128
GUARD = re.compile(r"guard", re.IGNORECASE)


class ModerationFields(msgspec.Struct):
    """``/v1/moderations``; ``threshold`` and ``version`` are those of ``Llama.moderate``."""

    input: str | list[Any]
    model: str = ""
    threshold: float = 0.5
    version: int | None = None


async def moderations(request: Request) -> Response:
    """A judgement of each text."""
    state = state_of(request)
    fields = take_own_fields(await read_request(request), ModerationFields)
    texts = _texts(fields.input)
    name = state.catalogue.find(fields.model or _guard_of(state)).name

    def work(llama: Llama, leaving: Leaving) -> list[Moderation]:
        found = []
        for text in texts:
            leaving.check()
            found.append(llama.moderate(text, threshold=fields.threshold, version=fields.version))
        return found

    worked = await in_turn(state, request, name, work)
    return json_response(
        {
            "id": f"modr-{secrets.token_hex(12)}",
            "model": name,
            "results": [_result(found) for found in worked.result],
        }
    )


def _guard_of(state: ServerState) -> str:
    """The first model that is a Llama Guard by its name, or the default."""
    for model in state.catalogue.usable():
        if GUARD.search(f"{model.name} {model.facts.title or ''}"):
            return model.name
    return ""


def _texts(given: str | list[Any]) -> list[str]:
    """A text, several, or the parts of one."""
    is_parts = isinstance(given, list) and given and all(isinstance(part, dict) for part in given)
    texts = [content_text(given)] if isinstance(given, str) or is_parts else list(given)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(
            400, "input is empty, or no text; allowed: a text, texts, or text parts", param="input"
        )
    if len(texts) > MAX_INPUTS:
        raise RequestError(400, f"{len(texts)} texts; allowed: up to {MAX_INPUTS}", param="input")
    return texts


def _result(found: Moderation) -> dict[str, Any]:
    """A judgement by OpenAI's categories, and by the model's own beside them."""
    flagged = {
        meant
        for category in found.categories
        for meant in MEANINGS.get(_letters(category.name), (f"{category.code}: {category.name}",))
    }
    names = (*OPENAI_CATEGORIES, *sorted(flagged - set(OPENAI_CATEGORIES)))
    score = found.unsafe_probability
    return {
        "flagged": not found.is_safe,
        "categories": {name: name in flagged for name in names},
        "category_scores": {name: score if name in flagged else 0.0 for name in names},
        "category_applied_input_types": {name: ["text"] for name in names},
        "unsafe_probability": score,
        "guard_categories": [
            {"code": category.code, "name": category.name} for category in found.categories
        ],
    }


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


ROUTES: Routes = (("/v1/moderations", ("POST",), moderations),)
