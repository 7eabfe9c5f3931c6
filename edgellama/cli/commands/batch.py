"""``edgellama batch``: generates texts for many prompts of a file; an interrupted run is continued.

``batch_files`` reads and writes the files, ``batch_job`` runs the texts, ``batch_ray`` runs them on
a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.background import run_interruptible
from edgellama.cli.commands.batch_job import Job
from edgellama.cli.commands.batch_ray import (
    RAY_HELP,
    WORKERS_HELP,
    check_ray_options,
    make_task,
    run_on_ray,
)
from edgellama.cli.options.adapter_option import AdapterPath, adapter_option, load_adapters
from edgellama.cli.options.answer_options import answer_arguments, answer_options
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.engine_options import engine_options, take_engine_arguments, type_option
from edgellama.cli.options.machines_options import address_option
from edgellama.cli.options.options import (
    count_option,
    given_options,
    limit_options,
    max_tokens_option,
    thinking_options,
)
from edgellama.cli.options.sampling_options import sampling_options
from edgellama.cli.options.template_option import template_option
from edgellama.cli.output.batch_progress import Counts, batch_progress

if TYPE_CHECKING:
    from edgellama.generation.batches.batch import Batch

CHAT_HELP = "Send each prompt as a chat message, or continue it as it is.  [default: raw]"


@click.command("batch", short_help="Generate texts from a file of prompts.")
@click.argument("words", nargs=-1, type=MODEL, metavar="[MODEL] IN.jsonl OUT.jsonl")
@count_option(
    *("-w", "--width"),
    text="Compute this many texts together; each takes memory for its keys and values.  "
    "[default: 64, or fewer down to 32 if memory is short]",
)
@max_tokens_option
@type_option
@sampling_options(chat=False)
@limit_options
@answer_options
@click.option("--chat/--raw", default=False, help=CHAT_HELP)
@click.option("--system", metavar="TEXT", help="System prompt for chats that have none.")
@template_option
@thinking_options
@click.option("--retry-errors", is_flag=True, help="Run lines again that have an error in OUT.")
@adapter_option()
@click.option("--ray", "is_on_ray", is_flag=True, help=RAY_HELP)
@address_option
@click.option("--workers", "num_workers", type=click.IntRange(min=1), metavar="N",
              help=WORKERS_HELP)  # fmt: skip
@engine_options
def command(
    words: tuple[str, ...],
    width: int | None,
    max_tokens: int,
    type_name: str | None,
    chat: bool,
    system: str | None,
    template: str | None,
    retry_errors: bool,
    adapters: Sequence[AdapterPath],
    is_on_ray: bool,
    address: str | None,
    num_workers: int | None,
    **options: Any,
) -> None:
    """Generate texts from a file of prompts, several at once.

    Each line of IN is a JSON object with "prompt", or with "messages" for a chat. Its "id"
    (by default the line's number) names its line in OUT. A line may set options such as
    max_tokens, stop, schema, tools or temperature for itself alone. Each line of OUT has
    "id" and either "text", "finish_reason", "matched_stop" (the string or the token's id that
    ended it, or null) and "usage", or "error". The thinking of a model in a chat is
    "reasoning" there; a line of IN may have "reasoning" (true or false) and
    "max_reasoning_tokens". Lines are written as texts finish.

    If the command is stopped, run it again: it skips the ids that OUT already has. - is
    standard input or output. Without MODEL, the starter model runs.

    With --ray, all machines of a cluster generate texts. Each needs the model's file at the
    same path, or pulled under the same name. All of IN is read first, and lines are written
    in blocks.

    \b
    Examples:
      edgellama batch smollm2 prompts.jsonl texts.jsonl -n 64
      edgellama batch model.gguf questions.jsonl answers.jsonl --chat
      edgellama batch /models/8b.gguf in.jsonl out.jsonl --ray --address head:6379
      jq -c '{id, prompt: .text}' a.jsonl | edgellama batch - out.jsonl
    """
    from edgellama.cli.commands.batch_files import BatchInput, BatchOutput
    from edgellama.cli.inputs.model_argument import find_runnable, open_model
    from edgellama.models.well_known import STARTER_MODEL

    check_ray_options(is_on_ray, address, num_workers)
    model, source, target = _take_apart(words)
    engine = take_engine_arguments(options)
    path = find_runnable(model, type_name)
    lines = BatchInput(source)
    output = BatchOutput(target, retry_errors=retry_errors)
    how = {
        "max_tokens": max_tokens,
        "template": template,
        **given_options(answer_arguments(options)),
    }
    try:
        job = Job(lines, output, is_chat=chat, system=system)
        if is_on_ray:
            task = make_task(
                model or STARTER_MODEL, path, width=width, engine=engine, options=how,
                adapters=adapters, is_chat=chat, system=system,
            )  # fmt: skip
            with batch_progress(lines.num_lines, target) as show:
                run_on_ray(task, job, address, num_workers, show)
        else:
            with open_model(path, **engine) as llama:
                loaded = load_adapters(llama.load_adapter, adapters)
                batch = llama.generate_batch(
                    job.prompts(), width=width, on_error=job.refuse, adapters=loaded, **how
                )
                with batch_progress(lines.num_lines, target) as show:
                    run(batch, job, show)
    finally:
        output.close()
    _check(job.counts)


def _take_apart(words: tuple[str, ...]) -> tuple[str | None, str, str]:
    """The model, if one is named, and both files."""
    if not 2 <= len(words) <= 3:
        raise click.UsageError("give the two files IN.jsonl and OUT.jsonl, and MODEL before them")
    model, (source, target) = (words[0] if len(words) == 3 else None), words[-2:]
    if len(words) == 2 and _is_no_input(source):
        raise click.UsageError(
            f"{source} is not a file of prompts; if it is the model, OUT.jsonl is missing: "
            f"edgellama batch {source} {target} OUT.jsonl"
        )
    if source == target != "-" or (Path(target).exists() and _is_same(source, target)):
        raise click.UsageError(f"IN and OUT are the same file: {target}")
    return model, source, target


def _check(counts: Counts) -> None:
    """An error that says how many lines failed, where any did, and what was written of one."""
    if counts.num_errors:
        raise click.ClickException(
            f"{counts.num_errors} of {counts.num_lines} lines failed; the first, "
            f'{counts.first_error}; the output says why, under "error", and --retry-errors runs '
            "them again"
        )


def _is_no_input(source: str) -> bool:
    """Whether the first of two words is rather a model, or nothing that is there."""
    path = Path(source)
    return source != "-" and (not path.exists() or path.is_dir() or path.suffix == ".gguf")


def _is_same(source: str, target: str) -> bool:
    return Path(source).exists() and Path(source).samefile(target)


def run(batch: Batch, job: Job, show: Callable[[Counts], None]) -> None:
    """Write all texts, and show how far they are."""

    def write() -> None:
        for result in batch:
            job.finish(result)

    try:
        run_interruptible(write, batch.cancel, idle=lambda: show(job.counts))
    finally:
        show(job.counts)
