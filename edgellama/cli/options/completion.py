"""What a shell can complete, as click types: names of models, types of weights, and paths.

The values are not checked here; the code that uses them knows what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE_VARIABLE = "_EDGELLAMA_COMPLETE"
"""Set by the shell when it asks for completions."""


class Named(click.ParamType[str]):
    """A text that is one of some known names, or a path where ``with_paths`` is set."""

    def __init__(
        self, name: str, names: Callable[[str], Iterable[str]], *, with_paths: bool = False
    ) -> None:
        self.name = name
        self.names = names
        self.with_paths = with_paths

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        """The names that begin so."""
        from click.shell_completion import CompletionItem

        # Paths go first, because bash drops all completions that come before one of a path.
        paths: list[CompletionItem[Any]] = (
            [CompletionItem(incomplete, type="file")] if self.with_paths else []
        )
        fitting = (name for name in self.names(incomplete) if name.startswith(incomplete))
        return [*paths, *map(CompletionItem, fitting)]


def register_shells() -> None:
    """Let bash complete names with colons, which it takes for the ends of words."""
    from click.shell_completion import BashComplete, add_completion_class

    class Bash(BashComplete):
        source_template = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n" + BashComplete.source_template

    add_completion_class(Bash)


def _models(incomplete: str) -> Iterable[str]:
    """Models of the cache, and those that are downloaded when they are named."""
    return dict.fromkeys([*_pulled(incomplete), *_known_names(incomplete)])


def _pulled(_: str) -> Iterable[str]:
    from edgellama.models.names import pulled_models

    return pulled_models()


def _stored(_: str) -> Iterable[str]:
    from edgellama.models.library import stored_models

    return dict.fromkeys(model.name for model in stored_models())


def _known_names(incomplete: str) -> Iterable[str]:
    """Short names of models; once a name has its dash, the name with every type."""
    from edgellama.models.well_known import HUB_MODELS, known_names

    base, dash, _ = incomplete.partition("-")
    if dash and base in HUB_MODELS:
        return [f"{base}-{name}" for name in _types(incomplete)]
    return known_names()


def _sized(incomplete: str) -> Iterable[str]:
    from edgellama.measure.model_presets import MODEL_PRESETS

    return [*_pulled(incomplete), *MODEL_PRESETS]


def _types(_: str) -> Iterable[str]:
    from edgellama.quant.recipes import RECIPES

    return RECIPES


def _written_types(_: str) -> Iterable[str]:
    from edgellama.quant.recipes import COPY, RECIPES

    return [*RECIPES, COPY.name]


def _tensor_types(_: str) -> Iterable[str]:
    from edgellama.quant.recipes import TENSOR_FORMATS

    return TENSOR_FORMATS


def _kv_types(incomplete: str) -> Iterable[str]:
    """Types of keys and values; after a slash, that of the values."""
    from edgellama.kernels_cpu.signatures import CACHE_TYPES

    keys, slash, _ = incomplete.partition("/")
    return [f"{keys}/{name}" for name in CACHE_TYPES] if slash else CACHE_TYPES


def _templates(_: str) -> Iterable[str]:
    from edgellama.text.named_templates import NAMED_TEMPLATES

    return ["list", *NAMED_TEMPLATES]


def _split_patterns(_: str) -> Iterable[str]:
    from edgellama.quant.vocabulary.split_patterns import SPLIT_RULES

    return SPLIT_RULES


def _tiers(_: str) -> Iterable[str]:
    from edgellama.kernels_cpu.machine.cpu import available_tiers

    return [tier.name for tier in available_tiers()]


MODEL = Named("model", _models, with_paths=True)
TEMPLATE = Named("template", _templates, with_paths=True)
SPLIT_PATTERN = Named("split pattern", _split_patterns)
PULLED_MODEL = Named("model", _stored)
MODEL_TO_PULL = Named("model", _known_names)
MODEL_OR_SIZE = Named("model", _sized, with_paths=True)
TYPE = Named("type", _types)
WRITTEN_TYPE = Named("type", _written_types)
TENSOR_TYPE = Named("type", _tensor_types)
KV_TYPE = Named("type", _kv_types)
TIER = Named("tier", _tiers)
ATTENTION = Named("attention", lambda _: ("cpu", "cuda", "auto"))
PATH = Named("path", lambda _: (), with_paths=True)
