"""Writes docs/cli.md from the commands' own help: ``python tests/cli_reference.py``."""

from __future__ import annotations

from pathlib import Path

import click

from edgellama.cli.application import COMMANDS, root

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HELP_WIDTH = 90
INTRODUCTION = """# Commands

What `edgellama COMMAND --help` prints. Written by `python tests/cli_reference.py`.
"""


def render_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _section(root, "edgellama")]
    top = click.Context(root, info_name="edgellama")
    for name in COMMANDS:
        command = root.get_command(top, name)
        assert command is not None
        parts.append(_section(command, f"edgellama {name}"))
    return "\n".join(parts)


def _section(command: click.Command, path: str) -> str:
    context = click.Context(
        command, info_name=path, terminal_width=HELP_WIDTH, max_content_width=HELP_WIDTH
    )
    context.help_option_names = ["-h", "--help"]
    return f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render_page(), "utf-8")
