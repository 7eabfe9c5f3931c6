"""What a model that was made from another adds to requests, where they do not say it themselves.

Only options and messages are added. ``models.made`` knows how such a model is made and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgellama.server.fields.chat_messages import SYSTEM_ROLES
from edgellama.server.fields.ollama_fields import text_options

if TYPE_CHECKING:
    from edgellama.models.made import Preset


def preset_options(preset: Preset, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a text, over those of the preset."""
    return {**text_options(preset.parameters), **options}


def preset_messages(
    preset: Preset, messages: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """A chat behind the preset's messages; its own system message goes before the preset's."""
    own = [message.get("role") in SYSTEM_ROLES for message in messages]
    num_leading = own.index(False) if False in own else len(own)
    said = [{"role": "system", "content": preset.system}] if preset.system and not any(own) else []
    return [*said, *messages[:num_leading], *preset.messages, *messages[num_leading:]]
