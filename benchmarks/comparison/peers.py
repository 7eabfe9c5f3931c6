"""From the command line to engines: ``NAME=COMMAND`` of each kind of peer.

Measurements of one name share a column, so that a build's benchmark program and its command line
stand for one engine.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from comparison import sweep_bench
from comparison.engine import Engine, Measurement, Stage, Task, first_token
from comparison.llama_bench import LLAMA_BENCH
from comparison.results import Settings
from comparison.sweep_bench import SWEEP_BENCH
from comparison.workers import llama_cpp_python

Measurements: TypeAlias = Mapping[Stage, Measurement]
OUR_NAME = "edgellama"
PLACE = re.compile(r"\{(model|prompt|threads|context)\}")
NAMED = re.compile(r"(?P<name>[^\s/=]+)=(?P<command>.+)", re.DOTALL)


@dataclass(frozen=True)
class PeerKind:
    """A kind of program that can be named on the command line, as option ``--KIND``."""

    default_name: str
    help: str
    measurements: Callable[[Sequence[str], float], Measurements]
    check: Callable[[Settings], None] = lambda settings: None
    """Refuses what the program cannot measure; RuntimeError."""


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
        "ik_llama.cpp",
        "ik_llama.cpp's llama-sweep-bench",
        SWEEP_BENCH.measurements,
        sweep_bench.check,
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


def peer_engines(
    named: Iterable[tuple[str, str]], settings: Settings, patience_s: float
) -> list[Engine]:
    """Engines of (kind, ``NAME=COMMAND`` or just the command).

    Commands are split as the shell does; ``env KEY=VALUE COMMAND`` gives one an environment.
    Raises RuntimeError when there is no such program, it cannot measure what ``settings`` ask, or
    one name would have the same thing measured twice.
    """
    columns: dict[str, dict[Stage, Measurement]] = {}
    for kind, text in named:
        peer = KINDS[kind]
        match = NAMED.fullmatch(text)
        name, command = match.group("name", "command") if match else (peer.default_name, text)
        if name == OUR_NAME:
            raise RuntimeError(f"--{kind} {text!r}: a peer called {name}; allowed: another NAME")
        peer.check(settings)
        words = command_words(kind, command)
        column = columns.setdefault(name, {})
        for stage, measurement in peer.measurements(words, patience_s).items():
            if stage in column:
                raise RuntimeError(
                    f"--{kind} {text!r}: the {stage} of {name} is measured already; "
                    "allowed: another NAME=COMMAND"
                )
            column[stage] = measurement
    return [Engine(name, measurements) for name, measurements in columns.items()]


def command_words(kind: str, command: str) -> list[str]:
    """``command`` as the shell splits it; RuntimeError if it starts no program."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise RuntimeError(f"--{kind} {command!r}: {error}; allowed: a command line") from error
    if not words or shutil.which(words[0]) is None:
        raise RuntimeError(f"--{kind} {command!r}: no such program; allowed: one that can be run")
    return words
