"""The slash commands of the chat: one table, and a small function for each.

A command gets the chat and the rest of its line, and returns the text to show. The Python API does
what it asks for.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from edgellama.cli.chat.chat import Chat
from edgellama.cli.chat.settings import (
    DEFAULT,
    REASONING_WORDS,
    option_name,
    option_rows,
    option_value,
    usual_rows,
)
from edgellama.cli.chat.state_rows import (
    SHOW_TOPICS,
    memory_rows,
    model_rows,
    option_table,
    options_in_force,
    table,
)
from edgellama.cli.options.sampling_values import NONE
from edgellama.cli.output.streaming import speed_line
from edgellama.generation.chat.messages import is_role
from edgellama.quant.error_text import NEARLY_THE_SAME, did_you_mean, nearest, shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass
from edgellama.text.reasoning.marks import reasoning_marks

MULTILINE_HELP = '''Several lines: start and end with """, end a line with \\, or press Alt-Enter.
A line with / that is not a command is a message; so is any line between """.
Ctrl-R finds what you typed before. Ctrl-C stops a reply; once more leaves.'''
AS_MESSAGE = 'Put a message that begins like this between """'


@dataclass(frozen=True)
class SlashCommand:
    """One command: what to write after its name, what it does, and how."""

    argument: str
    summary: str
    run: Callable[[Chat, str], str]
    aliases: tuple[str, ...] = ()


def run_command(chat: Chat, line: str) -> str | None:
    """Run ``/name rest`` and return what to show; None if the line is no command.

    InvalidOptionError for a name that is nearly one, and for more than a command takes.
    """
    if not line.startswith("/"):
        return None
    name = line.split(maxsplit=1)[0]
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is not None:
        rest = line[len(name) :].strip()
        if rest and not command.argument:
            raise InvalidOptionError(f"{name} takes nothing more, not {shown(rest)}. {AS_MESSAGE}")
        return command.run(chat, rest)
    meant = nearest(name.lower(), [*COMMANDS, *ALIASES], NEARLY_THE_SAME)
    if meant is not None:
        raise InvalidOptionError(f"unknown command {name}; {did_you_mean(meant)}{AS_MESSAGE}")
    return None


def _help(chat: Chat, argument: str) -> str:
    rows = {
        f"{name} {command.argument}".strip(): command.summary for name, command in COMMANDS.items()
    }
    return f"{table(rows, 18)}\n{MULTILINE_HELP}"


def _system(chat: Chat, argument: str) -> str:
    conversation = chat.conversation
    if argument.lower() in (NONE, "clear"):
        conversation.system = None
        return "the next reply has no system prompt"
    if argument:
        conversation.system = argument
        return "the system prompt applies from the next reply"
    return f"system prompt: {conversation.system}" if conversation.system else "no system prompt"


def _set(chat: Chat, argument: str) -> str:
    name_text, _, value = argument.partition(" ")
    if not name_text:
        return option_table(chat)
    name = option_name(name_text)
    if value.strip():
        given = {key: old for key, old in chat.given.items() if key != name}
        if value.strip() != DEFAULT:
            given[name] = option_value(name, value.strip())
        chat.set_options(given)
    return f"{name} is {option_rows(options_in_force(chat))[name]}"


def _show(chat: Chat, argument: str) -> str:
    if not argument:
        lines = chat.conversation.template.source.count("\n") + 1
        options = usual_rows(options_in_force(chat))[0].items()
        rows = {
            **model_rows(chat),
            "options": ", ".join(f"{name} {value}" for name, value in options),
            "template": f"{lines} lines of Jinja; /show template prints them",
            **memory_rows(chat),
        }
        return table(rows)
    if argument not in SHOW_TOPICS:
        allowed = ", ".join(SHOW_TOPICS)
        raise InvalidOptionError(f"nothing to show for {argument!r}; allowed: {allowed}")
    return SHOW_TOPICS[argument](chat)


def _stats(chat: Chat, argument: str) -> str:
    rows = memory_rows(chat)
    if chat.last_reply is not None:
        rows["last reply"] = speed_line(chat.last_reply)
    return table(rows)


def _model(chat: Chat, argument: str) -> str:
    from edgellama.cli.inputs.model_argument import find_runnable

    if argument:
        chat.use_model(find_runnable(argument, None))
    return table(model_rows(chat))


def _think(chat: Chat, argument: str) -> str:
    if argument in ("show", "hide"):
        chat.hides_thinking = argument == "hide"
    elif argument == DEFAULT:
        chat.set_options({name: v for name, v in chat.given.items() if name != "reasoning"})
    elif argument:
        chat.set_options({**chat.given, "reasoning": _wish(argument)})
    seen = "hidden" if chat.hides_thinking else "shown"
    text = f"thinking is {option_rows(options_in_force(chat))['reasoning']}, and {seen}"
    template = chat.conversation.template.source
    can_think = reasoning_marks(chat.llama.tokenizer, template) is not None
    return text if can_think else f"{text}, but this model cannot think"


def _wish(argument: str) -> object:
    try:
        return option_value("reasoning", argument)
    except InvalidOptionError:
        allowed = f"{REASONING_WORDS}, raw, show, hide or {DEFAULT}"
        raise InvalidOptionError(f"/think {shown(argument)}; allowed: {allowed}") from None


def _clear(chat: Chat, argument: str) -> str:
    chat.conversation.clear()
    return "started over"


def _undo(chat: Chat, argument: str) -> str:
    conversation = chat.conversation
    there = sum(is_role(message, "user") for message in conversation.messages)
    count = argument or "1"
    if there and count not in [str(number) for number in range(1, there + 1)]:
        raise InvalidOptionError(
            f"/undo {shown(count)}; allowed: how many turns to take back, 1 to {there}"
        )
    for _ in range(int(count) if there else 1):
        message, *_ = conversation.undo()
    return f"taken back: {' '.join(message['content'].split()):.60}"


def _regenerate(chat: Chat, argument: str) -> str:
    chat.regenerate()
    return ""


def _save(chat: Chat, argument: str) -> str:
    path = _path(argument, "/save")
    if path.is_dir():
        raise InvalidOptionError(f"{path} is a folder; give the name of a file in it")
    if path.exists() and not _confirm(f"{path} is there already; overwrite it? [y/N] "):
        return "nothing was saved"
    chat.conversation.save(path)
    return f"saved to {path}"


def _load(chat: Chat, argument: str) -> str:
    path = _path(argument, "/load")
    chat.conversation.load(path)
    return f"loaded {len(chat.conversation.messages)} messages from {path}"


def _keep(chat: Chat, argument: str) -> str:
    from edgellama.cli.inputs.kept import KeptConversation

    if not argument:
        if chat.kept is not None:
            return f"kept as {chat.kept.name}"
        return "not kept; /keep NAME keeps it for edgellama chat --resume NAME"
    kept = KeptConversation(argument)
    question = f"there is a conversation {kept.name} already; overwrite it? [y/N] "
    if kept != chat.kept and kept.exists and not _confirm(question):
        return "nothing was kept"
    chat.keep_as(kept)
    return f"kept as {kept.name}: edgellama chat --resume {shlex.quote(kept.name)} continues it"


def _exit(chat: Chat, argument: str) -> str:
    raise EOFError


def _path(argument: str, command: str) -> Path:
    for quote in ("'", '"'):
        if len(argument) > 1 and argument[0] == argument[-1] == quote:
            argument = argument[1:-1]
    if not argument:
        raise InvalidOptionError(f"{command} needs a file name, such as {command} talk.json")
    return Path(os.path.expanduser(argument))


def _confirm(question: str) -> bool:
    """Whether the user says yes; Ctrl-D is no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


COMMANDS: Mapping[str, SlashCommand] = MappingProxyType(
    {
        "/help": SlashCommand("", "Show this.", _help, ("/?", "/")),
        "/set": SlashCommand(
            "NAME VALUE", "Set an option, or back to default; alone, show all.", _set
        ),
        "/show": SlashCommand("TOPIC", "Show model, options, template or memory.", _show),
        "/system": SlashCommand(
            "TEXT", "Set the system prompt (none removes it), or show it.", _system
        ),
        "/think": SlashCommand(
            "WHAT", "Let the model think (on, off, auto), or show or hide it.", _think
        ),
        "/clear": SlashCommand("", "Start over with the same system prompt.", _clear),
        "/undo": SlashCommand("N", "Take back the last turn, or N of them.", _undo),
        "/regen": SlashCommand("", "Answer the last message again.", _regenerate),
        "/model": SlashCommand("NAME", "Switch to another model, or show this one.", _model),
        "/keep": SlashCommand("NAME", "Keep the conversation, for chat --resume NAME.", _keep),
        "/save": SlashCommand("FILE", "Save the conversation.", _save),
        "/load": SlashCommand("FILE", "Continue a saved conversation.", _load),
        "/stats": SlashCommand("", "Show context, speed and memory.", _stats),
        "/bye": SlashCommand("", "Leave, as /exit, /quit, Ctrl-D.", _exit, ("/exit", "/quit")),
    }
)
ALIASES: Mapping[str, str] = MappingProxyType(
    {alias: name for name, command in COMMANDS.items() for alias in command.aliases}
)
