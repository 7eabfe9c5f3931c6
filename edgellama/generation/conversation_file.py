"""The JSON file of a saved conversation: its form, checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgellama.generation.messages import Message, checked_messages
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.replaced_file import replaced_file
from edgellama.quant.ways import Way

FORMAT_NAME = "edgellama conversation"
FORMAT_VERSION = 1


def write_messages(path: Path, messages: Sequence[Message]) -> None:
    """Write the messages; an interruption leaves the old file or the new one, whole."""
    content = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "messages": list(messages)}
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    with replaced_file(path) as file:
        file.write(text.encode("utf-8", errors="surrogatepass"))


def read_messages(path: Path) -> list[Message]:
    """The messages of a saved conversation; InvalidOptionError if the file is something else."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8", errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InvalidOptionError(f"{path}: no saved conversation, {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
        raise InvalidOptionError(
            f"{path}: no saved conversation",
            way=Way("allowed: files that save() wrote", "allowed: files that /save wrote"),
        )
    if content.get("version") != FORMAT_VERSION:
        raise InvalidOptionError(
            f"{path}: version {content.get('version')!r} of the format; allowed: {FORMAT_VERSION}"
        )
    messages = content.get("messages")
    if not isinstance(messages, list):
        raise InvalidOptionError(f"{path}: no list of messages")
    return checked_messages(messages, f"{path}: ")
