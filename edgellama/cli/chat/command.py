"""``edgellama chat``: a conversation on a terminal or through a pipe.

It turns options into a chat, and opens the conversation. ``loop`` runs the chat.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.inputs.kept import CONVERSATION
from edgellama.cli.options.adapter_option import AdapterPath, adapter_option
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.engine_options import engine_options, take_engine_arguments, type_option
from edgellama.cli.options.machines_options import machines_options
from edgellama.cli.options.options import given_options, limit_options, shown_thinking_options
from edgellama.cli.options.sampling_options import sampling_options
from edgellama.cli.options.template_option import template_option
from edgellama.cli.options.token_count import TokenCount

if TYPE_CHECKING:
    from pathlib import Path

    from prompt_toolkit.completion import Completer

    from edgellama.generation.argument_types import WhenFull
    from edgellama.llama import Llama

WAYS = ("drop", "stop", "error")


@click.command("chat", short_help="Chat with MODEL, by default a small starter model.")
@click.argument("model", required=False, type=MODEL)
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option(
    "-n",
    "--max-tokens",
    type=TokenCount(min=1),
    metavar="N",
    help="Stop a reply after this many tokens.",
)
@click.option(
    "--when-full",
    type=click.Choice(WAYS),
    default="drop",
    show_default=True,
    help="When the context is full, drop the oldest turns, stop, or report an error.",
)
@click.option(
    "--resume",
    "resumed",
    type=CONVERSATION,
    metavar="NAME",
    help="Continue the conversation NAME, or begin one and keep it.",
)
@click.option("--plain", is_flag=True, help="Show replies as plain text, not as Markdown.")
@shown_thinking_options
@template_option
@type_option
@sampling_options(chat=True)
@limit_options
@adapter_option()
@engine_options
@machines_options
def command(
    model: str | None,
    system: str | None,
    when_full: WhenFull,
    resumed: str | None,
    plain: bool,
    hide_thinking: bool,
    template: str | None,
    type_name: str | None,
    adapters: Sequence[AdapterPath],
    machines_text: str | None,
    address: str | None,
    **options: Any,
) -> None:
    """Chat with MODEL (default: the starter model, downloaded first if need be).

    On a terminal, /help lists the commands. From a pipe, every line is a message and never
    a command, and only the replies go to standard output. Sampling follows the model's
    file, unless an option says otherwise. MODEL may be a folder with a checkpoint, which is
    converted first.

    The thinking of a model is shown dimmed on a terminal, and never in a pipe.

    --resume NAME continues a conversation at once, with the same model unless you give
    MODEL. "edgellama list --chats" lists the conversations.

    \b
    Examples:
      edgellama chat
      edgellama chat model.gguf --system "Answer in French." --temp 0
      edgellama chat Llama-3.2-1B-Instruct --type q4_0
      edgellama chat old-vicuna.gguf --template vicuna
      edgellama chat model.gguf --lora french.gguf:0.8 --lora polite.gguf
      edgellama chat --resume holidays
      edgellama chat 70b.gguf --machines laptop:24GB:60,desk:32GB:80
      echo "Why is the sky blue?" | edgellama chat smollm2
    """
    from edgellama.cli.chat.chat import Chat, ChatSettings, show_dim
    from edgellama.cli.chat.input import PlainReader, TerminalReader, history_path
    from edgellama.cli.chat.loop import talk, transcribe
    from edgellama.cli.chat.reply_view import make_reply_view
    from edgellama.cli.inputs.kept import KeptConversation, model_of
    from edgellama.cli.inputs.model_argument import find_runnable, name_everywhere
    from edgellama.cli.inputs.prompt_text import lines_of

    engine = take_engine_arguments(options)
    kept = None if resumed is None else KeptConversation(resumed)
    if kept is not None and model is None and kept.exists:
        model = model_of(kept)
    path = find_runnable(model, type_name)
    opens = None
    if machines_text is not None:
        known = {path: name_everywhere(model, path)}
        opens = partial(_spread, machines_text, address, engine, known)
    settings = ChatSettings(
        system,
        template,
        when_full,
        engine,
        given_options(options),
        adapters,
        open_model=opens,
        hides_thinking=hide_thinking,
    )
    with Chat(path, settings, make_reply_view(sys.stdout, plain=plain), kept) as chat:
        if sys.stdin.isatty() and sys.stdout.isatty():
            context = f"{chat.llama.context_length:,} tokens of context"
            show_dim(f"{path.stem}, {context}; /help for commands")
            chat.resume()
            talk(chat, TerminalReader(_completer(), history_path()))
        else:
            chat.resume()
            lines = sys.stdin if sys.stdin.isatty() else lines_of(sys.stdin.buffer)
            transcribe(chat, PlainReader(lines))


def _spread(
    machines_text: str,
    address: str | None,
    engine: Mapping[str, Any],
    known: Mapping[Path, str | Path],
    file: Path,
) -> Llama:
    """A file's model over several machines, which may know it by a name."""
    from edgellama.cli.inputs.cluster_stages import open_spread

    return open_spread(machines_text, address, engine, known.get(file, file))


def _completer() -> Completer:
    from edgellama.cli.chat.commands import COMMANDS
    from edgellama.cli.chat.completion import chat_completer
    from edgellama.cli.chat.settings import OPTION_NAMES
    from edgellama.cli.chat.state_rows import SHOW_TOPICS

    def options(argument: str) -> Iterable[str]:
        name, space, _ = argument.partition(" ")
        return [f"{name} default"] if space else [f"{option} " for option in OPTION_NAMES]

    return chat_completer(
        list(COMMANDS),
        {
            "/set": options,
            "/show": lambda _: SHOW_TOPICS,
            "/model": MODEL.names,
            "/system": lambda _: ("none",),
        },
        ("/save", "/load"),
    )
