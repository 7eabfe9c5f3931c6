"""The option --lora: adapters with scales, and how a command loads them.

The engine knows what adapters do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from edgellama.engine.weights.adapter import Adapter

AdapterPath: TypeAlias = tuple[str, float]
"""A file, and the scale that follows it behind a colon, 1 if there is none."""
Command = TypeVar("Command", bound=Callable[..., Any])
USE_HELP = "Use a LoRA adapter, scaled by SCALE (1 by default); repeatable."
MERGE_HELP = "Add a LoRA adapter to the weights, scaled by SCALE (1 by default); repeatable."


class AdapterFile(click.ParamType[AdapterPath]):
    """FILE or FILE:SCALE; a file that is there with all of its name goes before a scale."""

    name = "adapter"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> AdapterPath:
        """The file and the scale; whether the file is an adapter is found out later."""
        if isinstance(value, tuple):
            return value
        text = str(value)
        path, colon, scale = text.rpartition(":")
        if not colon or not path or Path(text).exists() or len(path) == 1:
            return text, 1.0
        try:
            return path, float(scale)
        except ValueError:
            self.fail(f"the scale of {text!r} is {scale!r}; allowed: a number, as in FILE:0.5")

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        """Paths."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def adapter_option(text: str = USE_HELP) -> Callable[[Command], Command]:
    """Add --lora, which gives ``adapters``."""
    return click.option(
        "--lora",
        "adapters",
        type=AdapterFile(),
        multiple=True,
        metavar="FILE[:SCALE]",
        help=text,
        callback=_without_twins,
    )


class Loader(Protocol):
    """``Llama.load_adapter``, or a shelf's ``load``."""

    def __call__(
        self, path: str, name: str, *, progress: Callable[[int, int], None]
    ) -> Adapter: ...


def load_adapters(load: Loader, given: Sequence[AdapterPath]) -> dict[Adapter, float]:
    """What the user has named, with scales; what must be compiled shows on stderr."""
    from edgellama.cli.output.terminal import kernel_progress

    with kernel_progress() as report:
        return {load(path, path, progress=report): scale for path, scale in given}


def _without_twins(
    ctx: click.Context, param: click.Parameter, given: tuple[AdapterPath, ...]
) -> tuple[AdapterPath, ...]:
    paths = [path for path, _ in given]
    for path in paths:
        if paths.count(path) > 1:
            raise click.UsageError(f"--lora names {path} {paths.count(path)} times; allowed: once")
    return given
