"""The slash commands of the chat: one table, one small function each.

A command gets the chat and the rest of its line and returns the text to show. What a
conversation can do is the Python API's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgellama.cli.streaming import speed_line
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes
from edgellama.quant.errors import InvalidOptionError

if TYPE_CHECKING:
    from edgellama.cli.chat_view import Chat

MULTILINE_HELP = '''Several lines: start and end with """, end a line with \\, or press Alt-Enter.
Ctrl-C stops a reply; once more leaves.'''


@dataclass(frozen=True)
class SlashCommand:
    """One command: what to write after its name, what it does, and how."""

    argument: str
    summary: str
    run: Callable[[Chat, str], str]


def run_command(chat: Chat, line: str) -> str:
    """Runs ``/name rest`` and returns what to show; InvalidOptionError for an unknown name."""
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        raise InvalidOptionError(f"unknown command {name}; /help lists the commands")
    return COMMANDS[name].run(chat, argument.strip())


def _help(chat: Chat, argument: str) -> str:
    rows = [
        f"{f'{name} {command.argument}'.strip():<16}{command.summary}"
        for name, command in COMMANDS.items()
    ]
    return "\n".join([*rows, MULTILINE_HELP])


def _system(chat: Chat, argument: str) -> str:
    conversation = chat.conversation
    if argument:
        conversation.system = argument
        return "the system prompt holds from the next reply on"
    return f"system prompt: {conversation.system}" if conversation.system else "no system prompt"


def _clear(chat: Chat, argument: str) -> str:
    chat.conversation.clear()
    return "the conversation starts anew"


def _regenerate(chat: Chat, argument: str) -> str:
    chat.regenerate()
    return ""


def _save(chat: Chat, argument: str) -> str:
    path = _path(argument, "/save")
    chat.conversation.save(path)
    return f"saved to {path}"


def _load(chat: Chat, argument: str) -> str:
    path = _path(argument, "/load")
    chat.conversation.load(path)
    return f"loaded {len(chat.conversation.messages)} messages from {path}"


def _stats(chat: Chat, argument: str) -> str:
    session = chat.conversation.session
    rows = {
        "messages": f"{len(chat.conversation.messages)}",
        "context": f"{len(session.tokens)} of {session.context_length} tokens",
        "peak memory": f"{peak_memory_bytes() / 1e6:,.0f} MB",
    }
    if chat.last_reply is not None:
        rows["last reply"] = speed_line(chat.last_reply)
    return "\n".join(f"{label:<16}{value}" for label, value in rows.items())


def _exit(chat: Chat, argument: str) -> str:
    raise EOFError


def _path(argument: str, command: str) -> str:
    if not argument:
        raise InvalidOptionError(f"{command} needs a file name, such as {command} talk.json")
    return argument


COMMANDS: Mapping[str, SlashCommand] = MappingProxyType(
    {
        "/help": SlashCommand("", "Show this.", _help),
        "/system": SlashCommand("TEXT", "Set the system prompt, or show it.", _system),
        "/clear": SlashCommand("", "Forget the conversation, keep the system prompt.", _clear),
        "/regen": SlashCommand("", "Answer the last message again.", _regenerate),
        "/save": SlashCommand("FILE", "Save the conversation.", _save),
        "/load": SlashCommand("FILE", "Go on with a saved conversation.", _load),
        "/stats": SlashCommand("", "Show context, speed and memory.", _stats),
        "/exit": SlashCommand("", "Leave; so does Ctrl-D.", _exit),
    }
)
