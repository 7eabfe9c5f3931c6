"""What guessing ahead brings: ``python benchmarks/speculation.py smollm2 model.gguf``.

Each reply is written beforehand and chosen whatever the logits are, so that texts are the same
with guesses and without, and a random model's as real as another's. Runs alternate; speeds are
medians, gains are medians of the pairs. Tasks:

- edit: a source file in the prompt, said again with one name changed everywhere;
- rewrite: the same with three names changed, which is a word in ten;
- prose: a page of documentation, and random tokens, where there is nothing to guess;
- draft: with ``--draft``, a reply that a draft model guesses right 70 times of 100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from edgellama import Generation, Llama

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "edgellama" / "engine" / "scheduler.py"
PROSE = ROOT / "docs" / "conversion.md"
NAMES = {"works": "jobs", "chosen": "picked", "segment": "piece"}
REQUEST = "Change names in this file and write it again:\n"
Tokens = Sequence[int]


@dataclass(frozen=True)
class Task:
    """A prompt, and the reply that is given whatever the model says."""

    name: str
    prompt: list[int]
    reply: list[int]

    def sampler(self) -> Callable[[Any, Tokens], int]:
        """Choose the reply's tokens, one after the other."""
        start, reply = len(self.prompt), self.reply
        return lambda logits, tokens: reply[len(tokens) - start]


def edit_task(llama: Llama, name: str, num_names: int, num_tokens: int) -> Task:
    """A file with some names changed."""
    file = SOURCE.read_text("utf-8")
    edited = file
    for old, new in list(NAMES.items())[:num_names]:
        edited = edited.replace(old, new)
    # As much of the file as the reply says again.
    encode = llama.tokenizer.encode
    reply = encode(edited)[: num_tokens + 1]
    prompt = encode(REQUEST) + encode(file)[: int(1.1 * num_tokens)]
    return Task(name, prompt, reply)


def plain_tasks(llama: Llama, num_tokens: int) -> list[Task]:
    """Texts that have nothing to do with their prompts."""
    prose = llama.tokenizer.encode(PROSE.read_text("utf-8"))[: num_tokens + 65]
    noise = np.random.default_rng(0).integers(1000, 40_000, num_tokens + 65).tolist()
    return [Task("prose", prose[:64], prose[64:]), Task("random", noise[:64], noise[64:])]


def draft_task(llama: Llama, draft: Llama, acceptance: float, num_tokens: int) -> Task:
    """A reply with a share of the tokens that the draft model says, and others between."""
    rng, engine = np.random.default_rng(0), draft._engine
    prompt = rng.integers(1000, 40_000, 64).tolist()
    text = list(prompt)
    cache = engine.new_cache(len(prompt) + num_tokens + 2)
    logits = engine.forward(prompt, cache)[0]
    while len(text) < len(prompt) + num_tokens + 1:
        guess = int(logits.argmax())
        is_said = (
            rng.random() < acceptance and guess not in llama.tokenizer.special.end_of_generation
        )
        text.append(guess if is_said else int(rng.integers(1000, 40_000)))
        logits = engine.forward(text[-1:], cache)[0]
    return Task(f"draft, {acceptance:.0%} right", prompt, text[len(prompt) :])


def run(llama: Llama, task: Task, speculation: bool) -> Generation:
    """One text."""
    result = llama.generate(
        task.prompt,
        max_tokens=len(task.reply),
        sampler=task.sampler(),
        speculation="auto" if speculation else False,
    )
    assert list(result.tokens) == task.reply, "the reply is not the one that was given"
    return result


def measure(llama: Llama, name: str, task: Task, rounds: int) -> str:
    """A row of the table."""
    run(llama, task, True)
    pairs = [(run(llama, task, False), run(llama, task, True)) for _ in range(rounds)]
    speeds = [[r.statistics.decode_tokens_per_second for r in pair] for pair in pairs]
    plain, guessed = (median(column) for column in zip(*speeds, strict=True))
    gain = median(fast / slow for slow, fast in speeds)
    drafted = median(pair[1].statistics.drafted_tokens for pair in pairs)
    accepted = median(pair[1].statistics.accepted_tokens for pair in pairs)
    return (
        f"| {name} | {task.name} | {plain:.1f} | {guessed:.1f} | {gain:.2f} | "
        f"{accepted:.0f} of {drafted:.0f} |"
    )


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--draft", help="A draft model for the last of the models.")
@click.option("--acceptance", default=0.7, show_default=True)
@click.option("-n", "--tokens", "num_tokens", default=256, show_default=True)
@click.option("-r", "--rounds", default=5, show_default=True)
@click.option("-t", "--threads", "num_threads", type=int)
@click.option("--only", multiple=True, help="Names of tasks, such as edit; all by default.")
def main(
    models: tuple[str, ...],
    draft: str | None,
    acceptance: float,
    num_tokens: int,
    rounds: int,
    num_threads: int | None,
    only: tuple[str, ...],
) -> None:
    """Print tokens per second without guesses and with them."""
    length = 3 * num_tokens + 512
    heads = ("model", "task", "without, tokens/s", "with", "gain", "guesses right")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)

    def rows(llama: Llama, name: str, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if not only or task.name.startswith(only):
                print(measure(llama, name, task, rounds), flush=True)

    for model in models:
        with Llama(model, context_length=length, num_threads=num_threads) as llama:
            name = Path(model).stem
            edits = [
                edit_task(llama, "edit", 1, num_tokens),
                edit_task(llama, "rewrite", 3, num_tokens),
            ]
            rows(llama, name, [*edits, *plain_tasks(llama, num_tokens)])
    if draft is not None:
        load = partial(Llama, context_length=length, num_threads=num_threads)
        with load(draft) as drafting, load(models[-1], draft=drafting) as llama:
            name = f"{Path(models[-1]).stem} + {Path(draft).stem}"
            rows(llama, name, [draft_task(llama, drafting, acceptance, num_tokens)])


if __name__ == "__main__":
    main()
