"""``edgellama cluster plan``: which layers go where, before anything is bought or started.

``cluster.planning`` makes the plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgellama.cli.inputs.cluster_stages import found_plan, wish_for
from edgellama.cli.options.completion import KV_TYPE, MODEL_OR_SIZE, TYPE
from edgellama.cli.options.machines_options import machines_option
from edgellama.cli.options.options import style_option
from edgellama.cli.options.token_count import TokenCount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellama.cluster.planning import Plan


@click.command("plan", short_help="Say which layers go where, and what to expect.")
@click.argument("model", type=MODEL_OR_SIZE)
@machines_option(required=True)
@click.option("--type", type=TYPE, help="Type of weights.  [default: a file's own, else q4_k_m]")
@click.option("--kv", "kv_type", type=KV_TYPE, default="f16", show_default=True,
              help="Type of keys and values.")  # fmt: skip
@click.option("-c", "--context", "context_length", type=TokenCount(min=1), metavar="N",
              help="Tokens of context.  [default: 4096, or the model's own if less]")  # fmt: skip
@click.option("--parallel", "num_texts", type=click.IntRange(min=1), default=1, show_default=True,
              metavar="N", help="Number of texts that run at once.")  # fmt: skip
@style_option()
def command(
    model: str,
    machines_text: str,
    type: str | None,
    kv_type: str,
    context_length: int | None,
    num_texts: int,
    style: str,
) -> None:
    """Say which layers of MODEL go to which machine, and how fast that will be.

    MODEL is anything that `edgellama footprint` takes, such as a GGUF file or
    llama-3.1-405b. The first machine also runs the program that drives the others. Tokens
    per second are predicted for one text, from the bytes that are read and sent;
    docs/cluster.md shows the sums.

    \b
    Examples:
      edgellama cluster plan llama-3.1-405b --machines "node*4:128GB:200:10"
      edgellama cluster plan llama-3.3-70b --machines laptop:32GB:60,desk:64GB:80
      edgellama cluster plan model.gguf --machines machines.txt -c 16384 -o json
    """
    from edgellama.cluster.machines import read_machines

    machines = read_machines(machines_text)
    wish = wish_for(model, type, kv_type, context_length, num_texts)
    found = found_plan(wish, machines)
    used = {stage.machine.name for stage in found.stages}
    _print(found, [machine.name for machine in machines if machine.name not in used], style)


def _print(plan: Plan, idle: Sequence[str], style: str) -> None:
    from edgellama.cli.output import tables
    from edgellama.cli.output.tables import Column
    from edgellama.cluster.driver.spread_engine import CHUNK_TOKENS

    rows = _rows(plan)
    if style == "json":
        click.echo(tables.json_array(rows))
        return
    if style == "csv":
        click.echo(tables.comma_separated(rows))
        return
    columns = (
        Column("machine", is_number=False),
        Column("layers", is_number=False),
        *(Column(f"{part}_bytes", tables.size) for part in ("weights", "kv", "other", "total")),
        Column("memory_bytes", tables.size),
        Column("seconds_per_token", lambda seconds: f"{1e3 * seconds:.1f} ms"),
        Column("wire_bytes", tables.size),
    )
    wish = plan.wish
    click.echo(
        f"{wish.outline.name} as {wish.type}: {wish.outline.num_parameters:,} parameters, "
        f"{wish.num_texts} x {wish.context_length} tokens of {wish.kv_types} keys and values\n"
    )
    click.echo(tables.to_read(rows, columns))
    click.echo(
        f"\n{plan.tokens_per_second:.2f} tokens/s at the start of a text, "
        f"{plan.full_tokens_per_second:.2f} with a full context\n"
        f"on the wire: {tables.size(plan.token_wire_bytes)} a token, "
        f"{tables.size(plan.chunk_wire_bytes)} a chunk of {CHUNK_TOKENS} tokens of a prompt"
    )
    if idle:
        click.echo(f"not needed: {', '.join(idle)}; every machine more is a call more a token")


def _rows(plan: Plan) -> list[dict[str, object]]:
    """A row a stage, under the names that programs read; what holds for all is in each."""
    return [
        {
            "machine": stage.machine.name,
            "layers": f"{stage.layers.start}-{stage.layers.stop - 1}",
            "num_layers": len(stage.layers),
            "weights_bytes": stage.weights_bytes,
            "kv_bytes": stage.kv_bytes,
            "other_bytes": stage.other_bytes,
            "total_bytes": stage.total_bytes,
            "memory_bytes": stage.machine.memory_bytes,
            "read_bytes": stage.read_bytes,
            "wire_bytes": stage.sent_bytes,
            "seconds_per_token": round(stage.seconds(), 6),
            "tokens_per_second": round(plan.tokens_per_second, 4),
            "full_context_tokens_per_second": round(plan.full_tokens_per_second, 4),
            "token_wire_bytes": plan.token_wire_bytes,
            "chunk_wire_bytes": plan.chunk_wire_bytes,
        }
        for stage in plan.stages
    ]
