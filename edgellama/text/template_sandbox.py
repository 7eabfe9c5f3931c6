"""Jinja2 as chat templates need it, with as little of Python as a stranger's template may have.

It is imported when a template is first rendered, because Jinja2 takes time to import. The helpers
are those that Hugging Face gives templates. Guarded are attributes and calls (Jinja2's immutable
sandbox), the steps of loops and macros, the length of the output, of repeated strings and of
powers. Not guarded is the memory of strings that double in many straight lines, and of padding
filters; the process's own limits must hold those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

from edgellama.quant.errors import TemplateError

MAX_STEPS = 1_000_000
MAX_OUTPUT_CHARACTERS = 16_000_000
MAX_REPEATED_ITEMS = 1_000_000
MAX_POWER_BITS = 4096
STEP_NAME = "_edgellama_step"


class GenerationBlock(Extension):
    """``{% generation %}``, which marks a reply for training; here it only passes through."""

    tags = {"generation"}  # noqa: RUF012  Jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's own statements."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The immutable sandbox, with limits on operators that can ask for any amount of memory."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """``left * right`` or ``left ** right`` where the result has a sensible size."""
        if operator == "*":
            for items, count in ((left, right), (right, left)):
                if isinstance(items, (str, list, tuple)) and isinstance(count, int):
                    _limit(len(items) * count, MAX_REPEATED_ITEMS, "items of a repeated value")
        elif isinstance(left, int) and isinstance(right, int):
            _limit(left.bit_length() * right, MAX_POWER_BITS, "bits of a power")
        return super().call_binop(context, operator, left, right)


class CompiledTemplate:
    """A parsed template; rendering it any number of times is independent and thread-safe."""

    def __init__(self, source: str) -> None:
        """TemplateError if the source does not parse."""
        if STEP_NAME in source:
            raise TemplateError(f"chat template uses the reserved name {STEP_NAME}")
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _format_now
        try:
            self._template = _compile_counted(environment, source)
        except Exception as error:
            raise TemplateError(f"chat template does not parse: {error}") from error

    def render(self, variables: Mapping[str, object]) -> str:
        """The text; TemplateError for whatever the template does wrong."""
        parts: list[str] = []
        num_characters, budget = 0, _Budget()
        guarded = {**variables, STEP_NAME: budget.step, "range": budget.range}
        try:
            for part in self._template.generate(guarded):
                num_characters += len(part)
                _limit(num_characters, MAX_OUTPUT_CHARACTERS, "characters of output")
                parts.append(part)
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(f"chat template failed: {type(error).__name__}: {error}") from error
        return "".join(parts)


def _compile_counted(environment: _Sandbox, source: str) -> Template:
    """The template, with one counted step in each turn of a loop and each call of a macro."""
    tree = environment.parse(source)
    for block in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
        body: list[nodes.Node] = getattr(block, "body")  # noqa: B009  not on the common base
        body.insert(0, nodes.ExprStmt(_step_call(), lineno=block.lineno))
        if isinstance(block, nodes.For) and block.test is not None:
            block.test = nodes.And(_step_call(), block.test, lineno=block.lineno)
    tree.set_environment(environment)
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None))


def _step_call() -> nodes.Call:
    return nodes.Call(nodes.Name(STEP_NAME, "load"), [], [], None, None)


class _Budget:
    """How much work one rendering may still do."""

    def __init__(self) -> None:
        self._num_steps = 0

    def step(self) -> bool:
        """One turn of a loop or one call of a macro; true, so that it can stand in a condition."""
        self._spend(1)
        return True

    def range(self, *bounds: int) -> range:
        """Python's ``range``, each number a step, because filters walk it uncounted."""
        numbers = safe_range(*bounds)
        self._spend(len(numbers))
        return numbers

    def _spend(self, num_steps: int) -> None:
        self._num_steps += num_steps
        if self._num_steps > MAX_STEPS:
            raise TemplateError(f"chat template takes more than {MAX_STEPS:,} steps")


def _limit(value: int, maximum: int, what: str) -> None:
    if value > maximum:
        raise TemplateError(f"chat template asks for {value:,} {what}; at most {maximum:,}")


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(f"chat template refuses the messages: {message}")


def _format_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja2's own filter would escape characters for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
