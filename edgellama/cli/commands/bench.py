"""``edgellama bench``: speed and memory, test by test, in the manner of llama-bench.

``measure.bench`` measures, ``bench_table`` writes the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellama.cli.interrupts import EXIT_INTERRUPTED
from edgellama.cli.options.adapter_option import adapter_option
from edgellama.cli.options.completion import ATTENTION, KV_TYPE, MODEL, TIER
from edgellama.cli.options.engine_options import ATTENTION_HELP, gpu_options
from edgellama.cli.options.lists import NumberList, TextList
from edgellama.cli.options.options import count_option, style_option
from edgellama.cli.options.token_count import TokenCountList

if TYPE_CHECKING:
    from edgellama.cli.output.tables import Row
    from edgellama.engine.card.choice import AttentionChoice
    from edgellama.measure.bench import BenchSetting, BenchTest

Command = TypeVar("Command", bound=Callable[..., Any])
DRAFT_HELP = (
    "A smaller model with the same vocabulary that guesses tokens while texts are generated."
)
PAIR_HELP = "A prompt of PP tokens and TG tokens generated after it; repeatable."


def _numbers(
    *names: str, default: str, smallest: int = 0, text: str
) -> Callable[[Command], Command]:
    """An option for one or several whole numbers."""
    kind = TokenCountList(smallest)
    return click.option(
        *names, type=kind, metavar="N,...", default=default, show_default=True, help=text
    )


@click.command("bench", short_help="Measure speed and memory, as llama-bench does.")
@click.argument("models", nargs=-1, required=True, type=MODEL, metavar="MODEL...")
@_numbers("-p", "--prompt", "prompts", default="512", text="Tokens of a prompt; 0 for none.")
@_numbers("-n", "--generate", "generated", default="128", text="Tokens to generate; 0 for none.")
@click.option(
    "-pg", "pairs", type=TokenCountList(0), multiple=True, metavar="PP,TG", help=PAIR_HELP
)
@_numbers("-d", "--depth", "depths", default="0", text="Tokens in the context beforehand.")
@_numbers(
    *("-b", "--batch", "batches"), default="512", smallest=1, text="Tokens in a step; 512 at most."
)
@click.option(
    *("-t", "--threads", "num_threads"),
    type=NumberList(),
    metavar="N,...",
    help="Threads to compute with.  [default: physical cores]",
)
@click.option(
    *("-ctk", "--key-type", "key_types"),
    type=TextList(KV_TYPE),
    metavar="T,...",
    default="f16",
    show_default=True,
    help="Types of cached keys.",
)
@click.option(
    *("-ctv", "--value-type", "value_types"),
    type=TextList(KV_TYPE),
    metavar="T,...",
    help="Types of cached values.  [default: that of the keys]",
)
@click.option(
    "--tier",
    "tiers",
    type=TextList(TIER),
    metavar="T,...",
    help="Instruction sets.  [default: best]",
)
@click.option(
    *("--attention", "modes"),
    type=TextList(ATTENTION),
    metavar="T,...",
    default="auto",
    show_default=True,
    help=ATTENTION_HELP,
)
@gpu_options
@count_option(*("-r", "--repetitions"), default=5, text="Runs of each test, after one to warm up.")
@style_option(more=("jsonl", "sql"))
@adapter_option()
@click.option("--draft", type=MODEL, metavar="MODEL", help=DRAFT_HELP)
def command(models: Sequence[str], repetitions: int, style: str, **options: Any) -> None:
    """Measure how fast MODELs read prompts (pp) and generate (tg), and their memory.

    Every test runs in its own process. Values separated by commas are all tried, in every
    combination. Besides the speed, the table shows the peak memory, the size of the KV
    cache, and the time from the start of the process to the first token. It compares the
    bytes per second of decode with a plain read of the weights at that moment, and shows
    the multiply-adds per second of prefill.

    Adapters are used in every test; their own bytes and multiply-adds are not counted. With
    --draft, models continue an English sentence instead of random tokens, and right guesses
    are counted.

    \b
    Examples:
      edgellama bench smollm2
      edgellama bench a.gguf b.gguf -p 0 -n 64 -d 0,4096 -t 1,2
      edgellama bench model.gguf -pg 1024,128 -r 3 -o json
      edgellama bench model.gguf --lora adapter.gguf
      edgellama bench large.gguf -p 0 --draft small.gguf
    """
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.cli.output.bench_table import show
    from edgellama.measure.bench import all_tests

    pairs = [_pair(pair) for pair in options["pairs"]]
    tests = all_tests(options["prompts"], options["generated"], pairs, options["depths"])
    if not tests:
        raise click.UsageError("nothing to measure: give -p, -n or -pg other than 0")
    if options["draft"] and options["adapters"]:
        raise click.UsageError("--draft and --lora; texts with adapters are not guessed")
    if options["draft"]:
        options["draft"] = str(find_model(options["draft"]))
    paths = [str(find_model(model)) for model in models]
    settings = [setting for path in paths for setting in _settings(path, options)]
    _compile(settings, max(test.depth + test.num_tokens for test in tests))
    rows: list[Row] = []
    try:
        _run_all(settings, tests, repetitions, rows)
    except KeyboardInterrupt:
        show(rows, style)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
    except Exception:
        show(rows, style)
        raise
    show(rows, style)


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    if len(numbers) != 2:
        raise click.UsageError(f"-pg takes two numbers, such as 512,128, not {len(numbers)}")
    return numbers[0], numbers[1]


def _settings(path: str, options: dict[str, Any]) -> list[BenchSetting]:
    """Every combination of options; without -ctv, values are cached as keys are."""
    from edgellama.engine.pages.kv_types import KVTypes
    from edgellama.measure.bench import all_settings

    key_types, value_types = options["key_types"], options["value_types"]
    return list(
        all_settings(
            path,
            {
                "kv_types": [
                    KVTypes(key, value) for key in key_types for value in value_types or (key,)
                ],
                "tier": options["tiers"] or (None,),
                "num_threads": options["num_threads"] or (None,),
                "batch_tokens": options["batches"],
                "attention": [_attention(mode, options) for mode in options["modes"]],
                "adapters": (options["adapters"],),
                "draft": (options["draft"],),
            },
        )
    )


def _attention(mode: Any, options: dict[str, Any]) -> AttentionChoice:
    from edgellama.engine.card.choice import ON_CPU, AttentionChoice

    if mode == ON_CPU.mode and len(options["modes"]) > 1:
        return ON_CPU
    return AttentionChoice(mode, options["gpu"], options["gpu_memory"])


def _compile(settings: Sequence[BenchSetting], num_tokens: int) -> None:
    """Compile what the tests need here, where it shows; their processes then only load it.

    ``num_tokens``: those of the longest test, of which a warning says if they are too many.
    """
    from edgellama.cli.output.terminal import kernel_progress
    from edgellama.engine.context_memory import warn_of_length
    from edgellama.engine.engine import Engine
    from edgellama.quant.gguf.file import GGUFFile

    configs = {}
    with kernel_progress(of_usual=True) as report:
        for path, tier, types in {
            (setting.path, setting.tier, setting.kv_types): None for setting in settings
        }:
            with (
                GGUFFile(path) as file,
                Engine(
                    file,
                    tier=tier,
                    kv_type=types.pair,
                    progress=report,
                ) as engine,
            ):
                configs[path] = engine.config
    for config in configs.values():
        warn_of_length(num_tokens, config)


def _run_all(
    settings: Sequence[BenchSetting],
    tests: Sequence[BenchTest],
    repetitions: int,
    rows: list[Row],
) -> None:
    """Append the row of every test as soon as it is measured."""
    from pathlib import Path

    from edgellama.cli.output.terminal import step_progress
    from edgellama.measure.bench import run_test

    count = len(settings) * len(tests)
    for setting in settings:
        for test in tests:
            title = f"{len(rows) + 1}/{count} {Path(setting.path).name} {test.name}"
            with step_progress(title) as progress:
                progress(0, repetitions)
                rows.append(run_test(setting, test, repetitions, progress))
