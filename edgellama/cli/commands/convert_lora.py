"""``edgellama convert-lora``: a PEFT adapter as a GGUF file.

``convert.adapter`` knows what an adapter holds, and what is refused.
"""

from __future__ import annotations

import click

from edgellama.cli.options.completion import PATH
from edgellama.cli.options.options import overwrite_option

TYPES = ("f32", "f16", "bf16", "q8_0")
BASE_HELP = "The base model: its folder (config.json is enough) or a GGUF file of it."


@click.command("convert-lora", short_help="Convert a LoRA adapter, saved by PEFT, to a GGUF file.")
@click.argument("folder", type=PATH, metavar="PEFT_FOLDER")
@click.argument("output", required=False, type=PATH)
@click.option(
    "--type",
    "type_name",
    type=click.Choice(TYPES, case_sensitive=False),
    default="f32",
    show_default=True,
    help="How the adapter's numbers are written.",
)
@click.option("--base", type=PATH, metavar="PATH", help=BASE_HELP)
@overwrite_option("OUTPUT")
def command(
    folder: str, output: str | None, type_name: str, base: str | None, overwrite: bool
) -> None:
    """Convert a LoRA adapter, saved by PEFT, to a GGUF file.

    PEFT_FOLDER holds adapter_config.json and adapter_model.safetensors (or .bin). Without
    OUTPUT, the file is written beside the folder. Without --base, the base model is read
    from the path that the adapter names, if it is on this machine.

    \b
    Examples:
      edgellama convert-lora my-adapter --base Llama-3.2-1B
      edgellama convert-lora my-adapter adapter.gguf --type f16 --base model.gguf
    """
    from edgellama.convert.adapter.lora import convert_lora

    report = convert_lora(folder, output, type=type_name, base=base, overwrite=overwrite)
    ranks = ", ".join(map(str, report.ranks))
    click.echo(
        f"{report.path}: {report.num_matrices} matrices of rank {ranks}, "
        f"{report.num_bytes / 1e6:.1f} MB"
    )
