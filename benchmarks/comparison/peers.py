"""From the command line to engines: ``NAME=COMMAND`` of each kind of peer.

Measurements of one name share a column, so that a build's benchmark program and its command line
stand for one engine.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from comparison.engine import Engine, Measurement, Stage, Task, first_token
from comparison.llama_bench import LLAMA_BENCH
from comparison.sweep_bench import SWEEP_BENCH
from comparison.workers import llama_cpp_python

Measurements: TypeAlias = Mapping[Stage, Measurement]
PLACE = re.compile(r"\{(model|prompt|threads|context)\}")
NAMED = re.compile(r"(?P<name>[^\s/=]+)=(?P<command>.+)", re.DOTALL)


@dataclass(frozen=True)
class PeerKind:
    """A kind of program that can be named on the command line, as option ``--KIND``."""

    default_name: str
    help: str
    measurements: Callable[[Sequence[str], float], Measurements]


def start_command(words: Sequence[str], patience_s: float) -> Measurements:
    """The start of a command line with {model}, {prompt}, {threads} and {context}."""

    def command(task: Task) -> list[str]:
        values = {
            "{model}": str(task.model),
            "{prompt}": task.prompt,
            "{threads}": str(task.settings.num_threads),
            "{context}": str(task.settings.context_length),
        }
        return [PLACE.sub(lambda place: values[place.group()], word) for word in words]

    return {"start": first_token(command, patience_s)}


KINDS = {
    "llama-bench": PeerKind("llama.cpp", "llama.cpp's llama-bench", LLAMA_BENCH.measurements),
    "sweep-bench": PeerKind(
        "ik_llama.cpp", "ik_llama.cpp's llama-sweep-bench", SWEEP_BENCH.measurements
    ),
    "peer-python": PeerKind(
        "llama-cpp-python", "interpreter with llama-cpp-python", llama_cpp_python
    ),
    "peer-command": PeerKind(
        "llama.cpp",
        "command that writes one greedy token and nothing else, with {model} and {prompt}, and "
        "{threads} and {context} where it wants them",
        start_command,
    ),
}


def peer_engines(named: Iterable[tuple[str, str]], patience_s: float) -> list[Engine]:
    """Engines of (kind, ``NAME=COMMAND`` or just the command).

    Commands are split as the shell does; ``env KEY=VALUE COMMAND`` gives one an environment.
    Raises RuntimeError when one name would have the same thing measured twice.
    """
    columns: dict[str, dict[Stage, Measurement]] = {}
    for kind, text in named:
        peer = KINDS[kind]
        match = NAMED.fullmatch(text)
        name, command = match.group("name", "command") if match else (peer.default_name, text)
        column = columns.setdefault(name, {})
        for stage, measurement in peer.measurements(shlex.split(command), patience_s).items():
            if stage in column:
                raise RuntimeError(
                    f"--{kind} {text!r}: the {stage} of {name} is measured already; "
                    "allowed: another NAME=COMMAND"
                )
            column[stage] = measurement
    return [Engine(name, measurements) for name, measurements in columns.items()]
