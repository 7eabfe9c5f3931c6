"""The JSON file of a saved conversation, whose form is checked when it is read.

``messages`` and ``transcript`` know what messages mean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgellama.generation.chat.messages import Message, checked_messages
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass
from edgellama.quant.replaced_file import replaced_file
from edgellama.quant.ways import Way

FORMAT_NAME = "edgellama conversation"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SavedMessages:
    """Messages, and data that saves work when the conversation continues.

    The oldest ``dropped_messages`` were no longer in the prompt. ``last_turn`` is the last turn as
    ``turns`` writes it, or None; from a file, it is not checked yet. ``model`` names the model.
    """

    messages: Sequence[Message]
    dropped_messages: int = 0
    last_turn: object = None
    model: str | None = None


def write_messages(path: Path, saved: SavedMessages) -> None:
    """Write the messages; an interruption leaves the old file or the new one, whole."""
    content = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "messages": list(saved.messages),
        "dropped_messages": saved.dropped_messages,
        "last_turn": saved.last_turn,
        "model": saved.model,
    }
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    with replaced_file(path) as file:
        file.write(text.encode("utf-8", errors="surrogatepass"))


def read_messages(path: Path) -> SavedMessages:
    """A saved conversation; InvalidOptionError if there is none at ``path``."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8", errors="surrogatepass"))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidOptionError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InvalidOptionError(f"{path}: not a saved conversation: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
        raise InvalidOptionError(
            f"{path}: not a saved conversation",
            way=Way("allowed: files that save() wrote", "allowed: files that /save wrote"),
        )
    if content.get("version") != FORMAT_VERSION:
        raise InvalidOptionError(
            f"{path}: version {content.get('version')!r} of the format; allowed: {FORMAT_VERSION}"
        )
    messages = content.get("messages")
    if not isinstance(messages, list):
        raise InvalidOptionError(f"{path}: no list of messages")
    dropped, model = content.get("dropped_messages"), content.get("model")
    return SavedMessages(
        checked_messages(messages, f"{path}: "),
        min(dropped, len(messages)) if type(dropped) is int and dropped >= 0 else 0,
        content.get("last_turn"),
        model if isinstance(model, str) else None,
    )
