"""``edgellama inspect``: what a GGUF file contains, without loading the model.

All figures come from the header; nothing here needs the engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.options import json_option
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.quant.gguf.file import GGUFFile, MetadataValue, Tensor

TEMPLATE_KEY = "tokenizer.chat_template"
MAX_LISTED_ITEMS = 32
MAX_SHOWN_ITEMS = 6
MAX_SHOWN_CHARACTERS = 100


@click.command("inspect", short_help="Show all that a model's file says.")
@click.argument("model", required=False, type=MODEL)
@click.option("--tensors", "with_tensors", is_flag=True, help="List every tensor, too.")
@json_option("Print one JSON object with all of it.")
def command(model: str | None, with_tensors: bool, as_json: bool) -> None:
    """Show a model's size, metadata and chat template.

    MODEL is the path of a GGUF file or the name of a pulled model. A summary comes first.

    \b
    Examples:
      edgellama inspect smollm2
      edgellama inspect model.gguf --tensors
      edgellama inspect model.gguf --json
    """
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.cli.output.terminal import printable
    from edgellama.quant.gguf.file import GGUFFile

    with GGUFFile(find_model(model)) as file:
        summary = summarize(file)
    if as_json:
        click.echo(json.dumps(asdict(summary), indent=2))
        return
    for line in report_lines(summary, with_tensors=with_tensors):
        click.echo(printable(line))


@dataclass(frozen=True)
class FormatUse:
    """How much of a file is of one format."""

    tensors: int
    parameters: int
    num_bytes: int


@dataclass(frozen=True)
class TensorLine:
    """A tensor as its file lists it; ``shape`` is (rows, columns) or (elements,)."""

    name: str
    shape: tuple[int, ...]
    format: str
    num_bytes: int


@dataclass(frozen=True)
class FileSummary:
    """Everything that ``--json`` prints, under the same names; None is not known."""

    name: str | None
    architecture: str | None
    type: str | None
    context_tokens: int | None
    positions: str | None
    license: str | None
    path: str
    files: list[str]
    file_bytes: int
    version: int
    alignment: int
    parameters: int
    bits_per_weight: float | None
    formats: dict[str, FormatUse]
    sampling: dict[str, float]
    metadata: dict[str, Any]
    tensors: list[TensorLine]
    chat_template: str | None


def summarize(file: GGUFFile) -> FileSummary:
    """What a file contains; long arrays as their length and first items."""
    from edgellama.models.facts import ModelFacts
    from edgellama.quant.sampling_keys import recommended_sampling

    facts = ModelFacts.of(file)
    tensors = list(file.tensors.values())
    num_parameters = facts.num_parameters
    tensor_bytes = sum(tensor.num_bytes for tensor in tensors)
    template = file.metadata.get(TEMPLATE_KEY)
    return FileSummary(
        name=facts.title,
        architecture=facts.architecture,
        type=facts.type,
        context_tokens=facts.context_length,
        positions=facts.positions,
        license=facts.license,
        path=str(Path(file.path)),
        files=[str(path) for path in file.files],
        file_bytes=file.file_bytes,
        version=file.version,
        alignment=file.alignment,
        parameters=num_parameters,
        bits_per_weight=8 * tensor_bytes / num_parameters if num_parameters else None,
        formats=_formats(tensors),
        sampling=dict(recommended_sampling(file.metadata)),
        metadata={
            key: to_json(value) for key, value in file.metadata.items() if key != TEMPLATE_KEY
        },
        tensors=[
            TensorLine(tensor.name, tuple(tensor.shape), tensor.format.name, tensor.num_bytes)
            for tensor in tensors
        ],
        chat_template=template if isinstance(template, str) else None,
    )


def report_lines(summary: FileSummary, *, with_tensors: bool) -> Iterator[str]:
    """The text for people, line by line."""
    yield from _overview_lines(summary)
    yield ""
    yield f"metadata ({len(summary.metadata)} keys)"
    width = max(map(len, summary.metadata), default=0)
    for key, value in summary.metadata.items():
        yield f"  {key:<{width}}  {_shortened(value)}"
    if with_tensors:
        yield ""
        yield from _tensor_lines(summary.tensors)
    if summary.chat_template is not None:
        yield ""
        yield "chat template"
        yield from ("  " + line for line in summary.chat_template.splitlines())


def _tensor_lines(tensors: list[TensorLine]) -> Iterator[str]:
    yield f"tensors ({len(tensors)}; rows x columns)"
    width = max((len(tensor.name) for tensor in tensors), default=0)
    for tensor in tensors:
        shape = " x ".join(str(size) for size in tensor.shape)
        yield (
            f"  {tensor.name:<{width}}  {tensor.format:<8}"
            f"{shape:<16}  {tensor.num_bytes:>13,} bytes"
        )


def _overview_lines(summary: FileSummary) -> Iterator[str]:
    for title, value in _overview(summary).items():
        if value is not None:
            yield f"{title:<15} {value}"


def _overview(summary: FileSummary) -> dict[str, str | None]:
    bits, context_tokens = summary.bits_per_weight, summary.context_tokens
    num_parts = len(summary.files)
    sampling = (f"{option} {value}" for option, value in summary.sampling.items())
    formats = (f"{name} ({use.tensors})" for name, use in summary.formats.items())
    return {
        "name": summary.name,
        "file": summary.path,
        "parts": str(num_parts) if num_parts > 1 else None,
        "size": f"{summary.file_bytes:,} bytes",
        "architecture": summary.architecture,
        "parameters": f"{summary.parameters:,}",
        "type": summary.type,
        "bits per weight": None if bits is None else f"{bits:.3f}",
        "formats": ", ".join(formats),
        "tensors": f"{len(summary.tensors)} (all of them: --tensors)",
        "context": None if context_tokens is None else f"{context_tokens:,} tokens",
        "positions": summary.positions,
        "sampling": ", ".join(sampling) or None,
        "chat template": "none" if summary.chat_template is None else "there, see below",
        "license": summary.license,
        "GGUF version": str(summary.version),
    }


def to_json(value: MetadataValue) -> Any:
    """A metadata value as JSON can hold it; not-a-number and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    if len(value) > MAX_LISTED_ITEMS:
        return {"length": len(value), "first": [_item(v) for v in value[:MAX_SHOWN_ITEMS]]}
    return [_item(item) for item in value]


def _item(value: Any) -> Any:
    return to_json(value.item() if hasattr(value, "item") else value)


def _formats(tensors: list[Tensor]) -> dict[str, FormatUse]:
    """The formats of a file, those that take most bytes first."""
    of_format: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        of_format.setdefault(tensor.format.name, []).append(tensor)
    uses = {
        name: FormatUse(
            tensors=len(found),
            parameters=sum(math.prod(tensor.shape) for tensor in found),
            num_bytes=sum(tensor.num_bytes for tensor in found),
        )
        for name, found in of_format.items()
    }
    return dict(sorted(uses.items(), key=lambda entry: -entry[1].num_bytes))


def _shortened(value: Any) -> str:
    if isinstance(value, dict):
        first = ", ".join(json.dumps(item, ensure_ascii=False) for item in value["first"])
        return f"{value['length']:,} items: {first}, ..."
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    if len(text) > MAX_SHOWN_CHARACTERS:
        return text[:MAX_SHOWN_CHARACTERS] + "..."
    return text
