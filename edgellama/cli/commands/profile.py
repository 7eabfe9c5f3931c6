"""``edgellama profile``: where the time of a step goes, op by op.

``measure.op_profile`` measures, ``profile_table`` writes the table.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.options.completion import MODEL, PATH, TIER
from edgellama.cli.options.engine_options import attention_options, take_attention
from edgellama.cli.options.options import count_option, kv_type_option, style_option, threads_option
from edgellama.cli.options.token_count import TokenCount
from edgellama.engine.program.step_sizes import MAX_SHORT_TOKENS, MAX_STEP_TOKENS
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgellama.engine.engine import Engine
    from edgellama.engine.pages.kv_cache import KVCache
    from edgellama.engine.running.step_timer import StepTimer
    from edgellama.engine.scheduling.cancellation import CancelToken
    from edgellama.measure.op_profile import OpTime

DECODE, PREFILL = "decode", "prefill"
GROUPS = ("kind", "layer", "op")


@click.command("profile", short_help="Time each op of a step of a model.")
@click.argument("model", required=False, type=MODEL)
@click.option(
    *("-p", "--prompt", "num_prompt"),
    type=click.IntRange(0, MAX_STEP_TOKENS),
    metavar="N",
    default=512,
    show_default=True,
    help=f"Tokens of the prefill step, {MAX_STEP_TOKENS} at most, fewer of very wide models; 0 for "
    "none.",
)
@click.option(
    *("-n", "--decode", "num_decoded"),
    type=click.IntRange(0, MAX_SHORT_TOKENS),
    metavar="N",
    default=1,
    show_default=True,
    help=f"Tokens of the decode step, {MAX_SHORT_TOKENS} at most; 0 for none.",
)
@click.option(
    *("-d", "--depth"),
    type=TokenCount(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Tokens in the context beforehand.",
)
@count_option(
    *("-r", "--repetitions"),
    default=10,
    text="Runs of each step, after one to warm up; medians of the quiet ones are shown.",
)
@threads_option
@kv_type_option
@attention_options
@click.option("--tier", type=TIER, metavar="T", help="Instruction set.  [default: best]")
@click.option(
    "--by",
    "group",
    type=click.Choice(GROUPS),
    default="kind",
    show_default=True,
    help="Sum up ops by kind, by layer, or list each op.",
)
@style_option()
@click.option("--plot", type=PATH, metavar="FILE", help="Draw a roofline as PNG, SVG or PDF.")
def command(
    model: str | None,
    num_prompt: int,
    num_decoded: int,
    depth: int,
    repetitions: int,
    num_threads: int | None,
    kv_type: str,
    tier: str | None,
    group: str,
    style: str,
    plot: str | None,
    **options: Any,
) -> None:
    """Time each op of a decode step and of a prefill step of MODEL.

    The table shows each op's time, its share of the step, and its bytes and multiply-adds,
    also per second. Rates above that of a plain read of the weights are left out, because
    such an op finds its bytes in a cache. Ops run one by one, so a step takes a little
    longer than elsewhere. The roofline (--plot) shows how far each kind of op is from the
    bandwidth of a plain read.

    \b
    Examples:
      edgellama profile smollm2
      edgellama profile model.gguf -p 0 -d 4096 --by op -o csv
      edgellama profile model.gguf --plot roofline.svg
    """
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.cli.output.figures import check_plot
    from edgellama.cli.output.profile_table import print_steps, rows_of
    from edgellama.engine.pages.kv_types import KVTypes

    check_plot(plot)
    sizes = {PREFILL: num_prompt, DECODE: num_decoded}
    if not any(sizes.values()):
        raise click.UsageError("nothing to measure: give -p or -n other than 0")
    how = {"num_threads": num_threads, "tier": tier, "attention": take_attention(options)}
    path, types = find_model(model), str(KVTypes.of(kv_type))
    found = _measured(path, sizes, depth, types, repetitions, how)
    print_steps(rows_of(found.steps, group, found.bandwidth), found.sizes, found.bandwidth, style)
    if plot:
        from edgellama.cli.output.figures import run_title
        from edgellama.cli.output.roofline_plot import draw

        title = run_title(path.stem, found.tier_name, found.num_threads)
        draw(title, found.steps, found.bandwidth, plot)


@dataclass(frozen=True)
class _Measured:
    """Times of ops and tokens by step, GB/s of a plain read, and what they were measured on."""

    steps: Mapping[str, Sequence[OpTime]]
    sizes: Mapping[str, int]
    bandwidth: float
    tier_name: str
    num_threads: int


def _measured(
    path: Path,
    sizes: Mapping[str, int],
    depth: int,
    kv_types: str,
    repetitions: int,
    how: Mapping[str, Any],
) -> _Measured:
    """Run each step that has tokens, and read the weights; ``how`` are arguments of Engine."""
    from edgellama.cli.background import run_cancellable
    from edgellama.cli.output.terminal import kernel_progress
    from edgellama.engine.context_memory import warn_of_length
    from edgellama.engine.engine import Engine
    from edgellama.engine.running.step_timer import StepTimer
    from edgellama.measure.plain_read import PlainRead
    from edgellama.quant.gguf.file import GGUFFile

    timer = StepTimer()
    with GGUFFile(path) as file:
        with kernel_progress() as compiled:
            engine = Engine(file, progress=compiled, timer=timer, **how)
        tier_name, num_threads = engine.kernels.tier.name, engine.num_threads
        with engine:
            sizes = {**sizes, PREFILL: min(sizes[PREFILL], engine.step_tokens)}
            num_tokens = depth + max(sizes.values())
            warn_of_length(num_tokens, engine.config)
            cache = engine.new_cache(num_tokens, kv_type=kv_types)
            steps = run_cancellable(
                partial(_time_steps, engine, timer, cache, sizes, depth, repetitions)
            )
            plain = PlainRead(engine)
            plain_seconds = min(plain.seconds() for _ in range(repetitions))
    bandwidth = plain.num_bytes / plain_seconds / 1e9
    return _Measured(steps, sizes, bandwidth, tier_name, num_threads)


def _time_steps(
    engine: Engine,
    timer: StepTimer,
    cache: KVCache,
    sizes: Mapping[str, int],
    depth: int,
    repetitions: int,
    cancelled: CancelToken,
) -> dict[str, Sequence[OpTime]]:
    """Times of the ops of each step that has tokens, by its name."""
    from edgellama.cli.output.terminal import step_progress
    from edgellama.measure.op_profile import profile_step

    engine.forward([0] * depth, cache, logits="none", cancelled=cancelled)
    steps: dict[str, Sequence[OpTime]] = {}
    for name, num_tokens in sizes.items():
        if num_tokens:
            with step_progress(f"timing {name}") as progress:
                steps[name] = profile_step(
                    engine,
                    timer,
                    cache,
                    num_tokens=num_tokens,
                    repetitions=repetitions,
                    cancelled=cancelled,
                    progress=progress,
                )
    return steps
