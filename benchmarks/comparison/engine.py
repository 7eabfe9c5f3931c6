"""An engine as the comparison sees it: what it can be asked to measure, and what comes back.

A program is called with a task and understood by its own reader; every call is a new process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from processes import run_undisturbed

from comparison.figures import Quantity
from comparison.results import Settings

Stage: TypeAlias = Literal["start", "memory", "speed"]


@dataclass(frozen=True)
class Task:
    """What is measured on which model; ``prompt`` is that of the start."""

    model: Path
    prompt: str
    settings: Settings


@dataclass(frozen=True)
class Outcome:
    """What one process gave."""

    values: Mapping[Quantity, float]
    other_cpus: float
    description: str | None = None


Measurement: TypeAlias = Callable[[Task], Outcome]


@dataclass(frozen=True)
class Engine:
    """A column of the table."""

    name: str
    measurements: Mapping[Stage, Measurement]


@dataclass(frozen=True)
class Report:
    """What a program says of its own run: tokens per second, and what it is."""

    speeds: Mapping[Quantity, float]
    description: str


@dataclass(frozen=True)
class Program:
    """How a benchmark program is called, and how its standard output and error are read.

    ``memory_arguments`` make it fill the context of the deepest test with nothing else in memory
    than that takes. ``read`` raises RuntimeError for an output that is not what was asked for.
    """

    speed_arguments: Callable[[Task], list[str]]
    memory_arguments: Callable[[Task], list[str]]
    read: Callable[[str, str, Task], Report]

    def measurements(self, command: Sequence[str], patience_s: float) -> dict[Stage, Measurement]:
        """Speed and memory, by calls that begin with ``command``."""

        def speed(task: Task) -> Outcome:
            child = run_undisturbed([*command, *self.speed_arguments(task)], patience_s)
            report = self.read(child.output, child.errors, task)
            return Outcome(report.speeds, child.other_cpus, report.description)

        def memory(task: Task) -> Outcome:
            child = run_undisturbed([*command, *self.memory_arguments(task)], patience_s)
            peak = {Quantity("peak_memory"): float(child.peak_memory_bytes)}
            return Outcome(peak, child.other_cpus)

        return {"speed": speed, "memory": memory}


def first_token(command: Callable[[Task], list[str]], patience_s: float) -> Measurement:
    """Seconds from before the process starts to its first byte on standard output.

    Raises RuntimeError if that is not yet the first token: nothing, or the prompt.
    """

    def start(task: Task) -> Outcome:
        words = command(task)
        child = run_undisturbed(words, patience_s)
        if not child.output or task.prompt in child.output:
            raise RuntimeError(
                f"{' '.join(words)} wrote {child.output!r}; allowed: the first token alone "
                "(llama-completion needs --no-display-prompt for that)"
            )
        return Outcome({Quantity("first_token"): child.first_output_s}, child.other_cpus)

    return start
