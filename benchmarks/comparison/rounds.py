"""The order of the measurements: engines alternate, because a machine's speed drifts.

What one measurement does is left to the engines, see ``engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from comparison.engine import Engine, Outcome, Stage, Task
from comparison.results import EngineResults

Log: TypeAlias = Callable[[str], None]


def measure(task: Task, engines: Sequence[Engine], log: Log) -> tuple[EngineResults, ...]:
    """Results in the order of ``engines``, with a value for every round.

    Before the rounds every engine starts once, which warms caches and compiles, and memory is
    measured: once, since it does not vary.
    """
    results = {engine.name: EngineResults(engine.name) for engine in engines}

    def run(round_name: str, stage: Stage, order: Sequence[Engine], keep: bool) -> None:
        for engine in order:
            if stage in engine.measurements:
                outcome = engine.measurements[stage](task)
                log(f"{round_name}, {engine.name}: {_summary(outcome)}")
                if keep:
                    _keep(outcome, results[engine.name])

    run("warm-up", "start", engines, keep=False)
    run("memory", "memory", engines, keep=True)
    for number in range(1, task.settings.rounds + 1):
        order = list(engines) if number % 2 else list(reversed(engines))
        run(f"round {number}", "speed", order, keep=True)
        run(f"round {number}", "start", order, keep=True)
    return tuple(results.values())


def _keep(outcome: Outcome, results: EngineResults) -> None:
    for quantity, value in outcome.values.items():
        results.values.setdefault(quantity, []).append(value)
    results.other_cpus.append(outcome.other_cpus)
    if outcome.description:
        results.describe(outcome.description)


def _summary(outcome: Outcome) -> str:
    return ", ".join(
        f"{quantity.figure} {quantity.text(value)}"
        + f" at depth {quantity.depth}" * bool(quantity.depth)
        for quantity, value in outcome.values.items()
    )
