"""``edgellama convert``: a checkpoint becomes a quantized GGUF file.

``edgellama.convert`` does the conversion; ``output`` shows its plan and its progress.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.options.adapter_option import MERGE_HELP, adapter_option
from edgellama.cli.options.completion import MODEL, PATH, SPLIT_PATTERN, TENSOR_TYPE, WRITTEN_TYPE
from edgellama.cli.options.options import overwrite_option, threads_option
from edgellama.cli.output import terminal

if TYPE_CHECKING:
    from edgellama.convert.options import ConversionArguments

TYPE_HELP = (
    "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k_s q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m "
    "q6_k iq4_nl iq4_xs copy (a GGUF file's tensors as they are).  [default: q4_k_m]"
)
TENSOR_TYPE_HELP = "Type for matrices whose name matches REGEX; the first match counts."
METADATA_HELP = "Set a metadata key, such as general.author=me; repeatable."


@click.command("convert", short_help="Convert a checkpoint to a GGUF file, such as q4_k_m.")
@click.argument("source", type=MODEL)
@click.argument("output", required=False, type=PATH)
@click.option("--type", type=WRITTEN_TYPE, metavar="TYPE", help=TYPE_HELP)
@click.option("--tensor-type", multiple=True, metavar="REGEX=TYPE", help=TENSOR_TYPE_HELP)
@click.option(
    "--output-tensor-type", type=TENSOR_TYPE, metavar="TYPE", help="Type of the output matrix."
)
@click.option(
    "--token-embedding-type", type=TENSOR_TYPE, metavar="TYPE", help="Type of the token embedding."
)
@click.option("--pure", is_flag=True, help="Use one type for all matrices instead of a mix.")
@click.option(
    "--imatrix", type=PATH, metavar="FILE", help="Importance matrix, from edgellama imatrix."
)
@threads_option
@click.option("--dry-run", is_flag=True, help="Show every tensor and size; write nothing.")
@click.option("--resume", is_flag=True, help="Continue a conversion that was stopped.")
@click.option("--verify", is_flag=True, help="Read the file back and compare.")
@click.option(
    "--report", type=PATH, metavar="FILE.json", help="Write size and error of every tensor."
)
@click.option("--split-max-size", metavar="SIZE", help="Split into parts of 500M, 2G, ...")
@click.option("--metadata", "assignments", multiple=True, metavar="KEY=VALUE", help=METADATA_HELP)
@click.option("--name", metavar="TEXT", help="The model's name.")
@click.option(
    "--pre",
    type=SPLIT_PATTERN,
    metavar="NAME",
    help="The tokenizer's split pattern, by llama.cpp's name.",
)
@adapter_option(MERGE_HELP)
@overwrite_option("OUTPUT")
def command(
    source: str,
    output: str | None,
    tensor_type: tuple[str, ...],
    assignments: tuple[str, ...],
    dry_run: bool,
    **given: Any,
) -> None:
    """Convert SOURCE to a GGUF file of a type such as q4_k_m.

    SOURCE is a folder from Hugging Face (safetensors or pytorch_model*.bin) or Meta
    (consolidated.*.pth), a GGUF file, or a pulled model. OUTPUT is NAME-TYPE.gguf in the
    current folder by default, and appears when it is complete. --resume continues a
    conversion that was stopped.

    \b
    Examples:
      edgellama convert Llama-3.2-1B-Instruct --type q4_k_m
      edgellama convert Llama-3.2-1B-Instruct model.gguf --type q4_k_m --dry-run
      edgellama convert model-f16.gguf --type q3_k_m --imatrix i.gguf --verify
      edgellama convert model-f16.gguf --type q4_0 --tensor-type "ffn_down=q6_k"
      edgellama convert model-f16.gguf french.gguf --lora lora.gguf:0.8
      edgellama convert old.gguf new.gguf --type copy --pre llama-bpe
    """
    from edgellama.convert.model.metadata_override import parse_metadata
    from edgellama.convert.options import parse_tensor_type

    arguments: ConversionArguments = {name: value for name, value in given.items() if value}  # type: ignore[assignment]
    arguments["tensor_types"] = [parse_tensor_type(text) for text in tensor_type]
    arguments["metadata"] = parse_metadata(assignments)
    path = _find_source(source)
    if dry_run:
        _show_plan(path, output, arguments)
    else:
        if not arguments.get("resume"):
            arguments["resume"] = _shall_resume(path, output, arguments)
        _convert(path, output, arguments)


def _find_source(source: str) -> Path:
    """The folder or file that is meant: a path, or the name of a pulled model."""
    path = Path(source).expanduser()
    if source and path.exists():
        return path
    from edgellama.models import names

    return names.resolve(source)


def _show_plan(source: Path, output: str | None, arguments: ConversionArguments) -> None:
    from edgellama.cli.output.conversion_plan import plan_lines
    from edgellama.convert import plan

    for line in plan_lines(plan(source, output, **arguments)):
        click.echo(terminal.printable(line))


def _shall_resume(source: Path, output: str | None, arguments: ConversionArguments) -> bool:
    """Whether to continue a conversion that was stopped; a user at a terminal is asked."""
    from edgellama.convert.output.journal import num_finished
    from edgellama.convert.planning.file_names import JOURNAL_SUFFIX

    place = Path() if output is None else Path(output).expanduser().parent
    if not any(place.glob(f"*{JOURNAL_SUFFIX}")):
        return False  # What would be planned is read for nothing.
    from edgellama.convert import plan

    path = plan(source, output, **arguments).output
    number = num_finished(path)
    if not number:
        return False
    if terminal.is_interactive():
        question = f"{path} was begun and has {number} tensors. Go on with it?"
        return click.confirm(terminal.printable(question), default=True, err=True)
    terminal.notice(f"starting again; --resume would have kept {number} finished tensors")
    return False


def _convert(source: Path, output: str | None, arguments: ConversionArguments) -> None:
    from edgellama.cli.output.conversion_progress import conversion_progress
    from edgellama.convert import convert

    try:
        with terminal.kernel_progress() as compiled, conversion_progress() as progress:
            report = convert(
                source, output, progress=progress, kernel_progress=compiled, **arguments
            )
    except KeyboardInterrupt:
        terminal.notice("stopped; the same command with --resume goes on from here")
        raise
    click.echo(terminal.printable(report.summary))
