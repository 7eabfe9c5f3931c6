"""The table of commands, and what becomes of their errors and signals.

It knows the exit codes: 0 done, 1 an explained error, 2 wrong usage, 130 interrupted, 141 the
reader of our output went away, 128 + N ended by signal N. Each command has a module of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType, MappingProxyType
from typing import Any, NoReturn

import click

from edgellama.cli.interrupts import EXIT_INTERRUPTED, unwind
from edgellama.cli.options.completion import COMPLETE_VARIABLE, register_shells
from edgellama.cli.options.long_names import with_long_names
from edgellama.cli.standard_streams import abandon, open_missing, show_any_text
from edgellama.quant.error_text import system_error_text
from edgellama.quant.errors import EdgellamaError

DEBUG_VARIABLE = "EDGELLAMA_DEBUG"
EXIT_BROKEN_PIPE = 141

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "pull": "edgellama.cli.commands.pull",
        "list": "edgellama.cli.commands.list_models",
        "show": "edgellama.cli.commands.show",
        "rm": "edgellama.cli.commands.remove",
        "clean": "edgellama.cli.commands.clean",
        "chat": "edgellama.cli.chat.command",
        "generate": "edgellama.cli.commands.generate",
        "batch": "edgellama.cli.commands.batch",
        "serve": "edgellama.cli.commands.serve",
        "embed": "edgellama.cli.commands.embed",
        "rerank": "edgellama.cli.commands.rerank",
        "footprint": "edgellama.cli.commands.footprint",
        "cluster": "edgellama.cli.commands.cluster",
        "inspect": "edgellama.cli.commands.inspect_model",
        "tokenize": "edgellama.cli.commands.tokenize",
        "perplexity": "edgellama.cli.commands.perplexity",
        "bench": "edgellama.cli.commands.bench",
        "profile": "edgellama.cli.commands.profile",
        "convert": "edgellama.cli.commands.convert",
        "imatrix": "edgellama.cli.commands.imatrix",
        "convert-lora": "edgellama.cli.commands.convert_lora",
        "doctor": "edgellama.cli.commands.doctor",
        "warmup": "edgellama.cli.commands.warmup",
    }
)
"""Module of each command, in the order of the help; each has a click command ``command``."""
ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "run": "chat",
        "complete": "generate",
        "server": "serve",
        "quantize": "convert",
        "download": "pull",
        "ls": "list",
        "remove": "rm",
        "delete": "rm",
    }
)
"""What commands are called in other programs, where the nearest name would be another one."""
MODEL_OPTIONS = ("-m", "--model")
"""What other programs call the model, which is an argument here."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order."""
        return list(COMMANDS)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words of a command line; "help NAME" means the same as "NAME --help".

        "help help" means the same as "help" alone.
        """
        if args[:1] == ["help"]:
            about = args[1:]
            while about[:1] == ["help"]:
                about = about[1:]
            args = [*about, "--help"]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is asked for; an error for another word names the nearest command."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            from edgellama.quant.error_text import nearest

            meant = ELSEWHERE.get(args[0]) or nearest(args[0], COMMANDS)
            if meant is not None:
                ctx.fail(f"No such command {args[0]!r}. Did you mean {meant!r}?")
        name, command, words = super().resolve_command(ctx, args)
        unwind()
        if command is not None and not isinstance(command, click.Group):
            words = with_long_names(command, words)
        return name, command, words

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a vanished reader and Ctrl-C become exit codes here."""
        from edgellama.cli.library_warnings import show_warnings

        show_warnings()
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except click.UsageError as error:
            # Click's parser does not name the command in an error about its words, so it is named
            # here.
            if error.ctx is None and (name := ctx.invoked_subcommand):
                error.ctx = click.Context(click.Command(name), parent=ctx, info_name=name)
            raise
        except BrokenPipeError:
            abandon(sys.stdout)
            ctx.exit(EXIT_BROKEN_PIPE)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        return result


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgellama", message="%(prog)s %(version)s")
def root() -> None:
    """Chat with a quantized Llama on your own CPU.

    "edgellama help COMMAND" shows what a command does, and its options.

    \b
    Examples:
      edgellama pull smollm2
      edgellama chat
      edgellama generate smollm2 --chat -p "Why is the sky blue?"
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return the exit code.

    Every error is one line on stderr; EDGELLAMA_DEBUG=1 lets the traceback through.
    """
    if COMPLETE_VARIABLE in os.environ:
        register_shells()
    try:
        result = root.main(
            args=None if arguments is None else list(arguments),
            prog_name="edgellama",
            standalone_mode=False,
        )
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "edgellama"
        text = error.format_message()
        if isinstance(error, click.NoSuchOption):
            text = _model_option(error, path) or text + _rare_option(error)
        return _complain(f"{text} (see: {path} --help)", exit_code=2)
    except click.ClickException as error:
        return _complain(error.format_message())
    except (Exception, RecursionError) as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            return EXIT_INTERRUPTED
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        return _complain(_describe(error))
    return result if isinstance(result, int) else 0


def _model_option(error: click.NoSuchOption, path: str) -> str:
    """How the model is named, for an option that would name it; nothing for others."""
    parameters = error.ctx.command.params if error.ctx else ()
    is_argument = any("MODEL" in (parameter.human_readable_name or "") for parameter in parameters)
    if error.option_name not in MODEL_OPTIONS or not is_argument:
        return ""
    return f"No such option {error.option_name!r}. MODEL needs none: {path} smollm2"


def _rare_option(error: click.NoSuchOption) -> str:
    """How an option is said that a command has without listing it; nothing for others."""
    from edgellama.cli.options.options import RARE
    from edgellama.cli.options.sampling_options import SAMPLING_OPTIONS
    from edgellama.sampling.options import RULES

    name = error.option_name.lstrip("-").replace("-", "_")
    parameters = error.ctx.command.params if error.ctx else ()
    is_rare = name in RULES and name not in SAMPLING_OPTIONS
    if not is_rare or not any(parameter.name == RARE for parameter in parameters):
        return ""
    return f" Say it so: --sampling {name}=..."


def _describe(error: Exception) -> str:
    if isinstance(error, EdgellamaError):
        return error.in_terminal
    if isinstance(error, OSError) and error.strerror:
        from edgellama.quant.replaced_file import WRITE_ERRORS

        text = system_error_text(error)
        # Errors of files name them (named_writes); an error without a name is about a standard
        # stream.
        is_output = error.filename is None and error.errno in WRITE_ERRORS
        return f"standard output: {text}" if is_output else text
    if isinstance(error, MemoryError):
        return f"out of memory {error}".rstrip()
    return f"internal error, {type(error).__name__}: {error} (traceback: set {DEBUG_VARIABLE}=1)"


def _complain(message: str, exit_code: int = 1) -> int:
    """One line on stderr; of a longer message, which holds a report, its two ends."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["unknown error"]
    if len(lines) > 1:
        lines = [lines[0], lines[-1], f"(all of it: set {DEBUG_VARIABLE}=1)"]
    with suppress(OSError):
        print(f"edgellama: error: {' '.join(lines)}", file=sys.stderr)
    return exit_code


def prepare_process() -> None:
    """Settings of the whole process, for a process that runs nothing but one command.

    A character that the terminal cannot show does not end it, and the polite ways to end it
    unwind the stack, so that unfinished files go. NumPy's library for products starts no threads,
    since whatever multiplies here has its own.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_missing()
    show_any_text()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
