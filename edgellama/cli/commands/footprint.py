"""``edgellama footprint``: how much memory a model will take, before it is downloaded or run.

``footprint_wishes`` lists what to predict, ``measure`` predicts and measures, and
``footprint_table`` has the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.commands.footprint_wishes import (
    USUAL_KV_TYPES,
    PredictionWishes,
    predictions_for,
)
from edgellama.cli.options.adapter_option import adapter_option
from edgellama.cli.options.byte_size import ByteSize
from edgellama.cli.options.completion import KV_TYPE, MODEL_OR_SIZE, PATH, TYPE
from edgellama.cli.options.engine_options import attention_options, take_attention
from edgellama.cli.options.lists import TextList
from edgellama.cli.options.options import style_option, threads_option
from edgellama.cli.options.token_count import TokenCountList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellama.cli.inputs.model_outline_source import OutlineSource
    from edgellama.cli.options.adapter_option import AdapterPath
    from edgellama.engine.card.choice import AttentionChoice
    from edgellama.measure.footprint import Footprint, Machine
    from edgellama.measure.footprint_measurement import Measurement

TYPE_HELP = "Types of the weights.  [default: the file's own; several of a model that is no file]"
KV_HELP = (
    "Types of the KV cache; K/V gives keys and values different ones.  [default: f16, q8_0; "
    "with --fit all]"
)


@click.command("footprint", short_help="Predict the memory that a model takes.")
@click.argument("model", type=MODEL_OR_SIZE)
@click.option("--type", "types", type=TextList(TYPE), metavar="T,...", help=TYPE_HELP)
@click.option("--kv", "kv_types", type=TextList(KV_TYPE), metavar="T,...", help=KV_HELP)
@click.option(
    "-c",
    "--context",
    "context_lengths",
    type=TokenCountList(),
    metavar="N,...",
    help="Tokens of context.  [default: 4096, or the model's own if that is less]",
)
@click.option(
    "--pure", is_flag=True, help="Use one format for all matrices, as convert --pure does."
)
@click.option(
    "--fit",
    "memory",
    metavar="SIZE",
    help="List what fits in SIZE, the best first: 16GB, or just 16.",
)
@click.option(
    "--prompt-cache",
    "prompt_cache_bytes",
    type=ByteSize(),
    metavar="SIZE",
    help="Add the memory for earlier texts (chat --prompt-cache).",
)
@click.option(
    "--draft", type=MODEL_OR_SIZE, metavar="MODEL", help="Add a draft model (chat --draft)."
)
@click.option(
    "--parallel",
    "num_texts",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Count N texts at once, each with its own context (serve --parallel).",
)
@adapter_option("Add a LoRA adapter (chat --lora); repeatable.")
@click.option("--measure", "measured", is_flag=True, help="Run the file, measure, and compare.")
@attention_options
@threads_option
@style_option()
@click.option("--plot", type=PATH, metavar="FILE", help="Draw stacked bars as PNG, SVG or PDF.")
def command(
    model: str,
    types: Sequence[str] | None,
    kv_types: Sequence[str] | None,
    context_lengths: Sequence[int] | None,
    pure: bool,
    memory: str | None,
    prompt_cache_bytes: int | None,
    draft: str | None,
    num_texts: int,
    adapters: Sequence[AdapterPath],
    measured: bool,
    num_threads: int | None,
    style: str,
    plot: str | None,
    **options: Any,
) -> None:
    """Predict the memory that MODEL takes, from its header alone.

    MODEL is a GGUF file, the name of a pulled model, a Hugging Face config.json, Meta's
    params.json, the folder of either, or the name of a published size such as llama-2-7b.
    The total is the peak memory of the whole process with a full context; 1 GB is 10^9
    bytes. With --attention cuda, keys and values lie on a graphics card. Its memory is
    shown separately, without what its driver takes.

    \b
    Examples:
      edgellama footprint llama-3.1-8b --type q4_k_m,q8_0 -c 8192,131072
      edgellama footprint llama-2-13b --fit 16
      edgellama footprint llama-3.1-8b --type q4_k_m --draft llama-3.2-1b
      edgellama footprint llama-3.1-8b --type q4_k_m -c 8k --parallel 4
      edgellama footprint model.gguf --measure -o json
      edgellama footprint ./Llama-3.2-1B --plot memory.png
    """
    if measured and (memory or plot or prompt_cache_bytes or num_texts > 1):
        raise click.UsageError(
            "--measure goes with none of --fit, --plot, --prompt-cache and --parallel"
        )
    attention = take_attention(options | {"attention": options["attention"] or "cpu"})
    found = None
    if measured:
        # The measured process comes before large imports here: PSS counts what both share half.
        single = _single(types, kv_types, context_lengths)
        found = _measure(model, single, num_threads, draft, adapters, attention)
        kv_types, context_lengths = (found[1],), (found[0].num_tokens,)
    from edgellama.cli.inputs.model_outline_source import find_outline
    from edgellama.cli.output.figures import check_plot
    from edgellama.engine.context_memory import warn_of_length
    from edgellama.measure.footprint_fit import parse_size

    check_plot(plot)
    memory_bytes = parse_size(memory) if memory else None
    source = find_outline(model)
    wishes = PredictionWishes(
        types,
        kv_types,
        context_lengths,
        pure,
        num_threads,
        prompt_cache_bytes or 0,
        find_outline(draft) if draft is not None else None,
        attention.mode == "cuda",
        num_texts,
        adapters,
    )
    predictions = predictions_for(source, wishes, memory_bytes)
    warn_of_length(max(p.context_length for p in predictions), source.outline.config)
    _print(source, predictions, found[0] if found else None, memory_bytes, style)
    if plot:
        _draw(source, wishes.machine, predictions, memory_bytes, plot)


def _single(
    types: Sequence[str] | None,
    kv_types: Sequence[str] | None,
    context_lengths: Sequence[int] | None,
) -> tuple[str, int | None]:
    """The one combination that is measured: KV type and context length."""
    if types:
        raise click.UsageError("--measure runs a file as it is, so it takes no --type")
    if any(values is not None and len(values) > 1 for values in (kv_types, context_lengths)):
        raise click.UsageError("--measure takes one KV type and one context length")
    return (kv_types or USUAL_KV_TYPES)[0], context_lengths[0] if context_lengths else None


def _measure(
    model: str,
    wanted: tuple[str, int | None],
    num_threads: int | None,
    draft: str | None,
    adapters: Sequence[AdapterPath],
    attention: AttentionChoice,
) -> tuple[Measurement, str]:
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.cli.output.terminal import step_progress
    from edgellama.measure.footprint_measurement import measure

    kv_type, context_length = wanted
    path = find_model(model)
    with step_progress("measuring memory") as progress:
        progress(0, context_length or 1)
        measurement = measure(
            path,
            context_length=context_length,
            kv_type=kv_type,
            num_threads=num_threads,
            draft=None if draft is None else find_model(draft),
            adapters=adapters,
            attention=attention,
            progress=progress,
        )
    return measurement, kv_type


def _print(
    source: OutlineSource,
    predictions: Sequence[Footprint],
    found: Measurement | None,
    memory_bytes: int | None,
    style: str,
) -> None:
    from edgellama.cli.output.footprint_table import (
        fit_row,
        measured_row,
        prediction_row,
        print_rows,
    )

    if found is not None:
        rows = [measured_row(source.outline, predictions[0], found)]
    elif memory_bytes is not None:
        rows = [fit_row(source.outline, prediction) for prediction in predictions]
    else:
        rows = [prediction_row(source.outline, prediction) for prediction in predictions]
    print_rows(source.outline, rows, style)


def _draw(
    source: OutlineSource,
    machine: Machine,
    predictions: Sequence[Footprint],
    memory_bytes: int | None,
    file: str,
) -> None:
    from edgellama.cli.output.figures import run_title
    from edgellama.cli.output.footprint_plot import draw

    title = run_title(source.outline.name, machine.tier.name, machine.num_threads)
    draw(title, predictions, memory_bytes, file)
