"""The machines of a cluster as a user describes them: ``name:memory:bandwidth[:network]``.

``planning`` divides the layers among them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellama.measure.footprint_fit import parse_size
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError

USUAL_NETWORK = 1.0
"""Gbit/s of the network ports of most machines."""
FORM = "NAME:MEMORY:BANDWIDTH[:NETWORK], as in desk:64GB:80 or desk*4:128GB:80:10"
MAX_MACHINES = 64
RATES = 0.001, 1_000_000.0
"""The least and the most of GB/s and Gbit/s."""
_SPEC = re.compile(r"([\w.-]{1,63})(?:\*([0-9]+))?:([^:]+):([^:]+)(?::([^:]+))?")
_NUMBER = re.compile(r"[0-9.]+(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class ClusterMachine:
    """One machine: bytes that edgellama may take there, GB/s at which memory is read, Gbit/s."""

    name: str
    memory_bytes: int
    gb_per_second: float
    network_gbit: float = USUAL_NETWORK


def read_machines(text: str) -> list[ClusterMachine]:
    """Machines of a file with one on each line (``#`` begins a comment), or separated by commas.

    ``NAME*4`` are four equal ones. Raises InvalidOptionError, OSError.
    """
    # isfile says False, too, for names that no file can have.
    is_file = os.path.isfile(text)
    if ":" not in text or is_file:
        if not is_file:
            raise InvalidOptionError(f"machines {shown(text)}: no such file; allowed too: {FORM}")
        content = Path(text).read_text("utf-8", errors="replace")
        specs = [line.split("#")[0].strip() for line in content.splitlines()]
    else:
        specs = [spec.strip() for spec in text.split(",")]
    machines = [machine for spec in specs if spec for machine in _machines_of(spec)]
    if not 0 < len(machines) <= MAX_MACHINES:
        raise InvalidOptionError(f"{len(machines)} machines; allowed: 1 to {MAX_MACHINES}")
    return _with_own_names(machines)


def _machines_of(spec: str) -> list[ClusterMachine]:
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise InvalidOptionError(f"machine {shown(spec)}; allowed: {FORM}")
    name, count, memory, bandwidth, network = found.groups()
    machine = ClusterMachine(
        name,
        parse_size(memory),
        _rate(spec, "bandwidth, in GB/s", bandwidth),
        _rate(spec, "network, in Gbit/s", network or str(USUAL_NETWORK)),
    )
    num_machines = int(count or 1) if len(count or "") < 9 else MAX_MACHINES + 1
    if not 0 < num_machines <= MAX_MACHINES:
        raise InvalidOptionError(
            f"machine {shown(spec)}: so many of them; allowed: 1 to {MAX_MACHINES}"
        )
    return [machine] * num_machines


def _rate(spec: str, what: str, text: str) -> float:
    least, most = RATES
    try:
        number = float(text) if _NUMBER.fullmatch(text) else 0.0
    except ValueError:
        number = 0.0
    if not least <= number <= most:
        raise InvalidOptionError(
            f"machine {shown(spec)}: {what}, is {shown(text)}; allowed: {least:g} to {most:,.0f}"
        )
    return number


def _with_own_names(machines: Sequence[ClusterMachine]) -> list[ClusterMachine]:
    """Machines of one name get numbers; InvalidOptionError where another is called so."""
    names = [machine.name for machine in machines]
    numbered = [
        replace(machine, name=f"{machine.name}-{names[:number].count(machine.name) + 1}")
        if names.count(machine.name) > 1
        else machine
        for number, machine in enumerate(machines)
    ]
    unique = {machine.name for machine in numbered}
    for machine in numbered:
        if machine.name not in unique:
            raise InvalidOptionError(f"two machines are called {machine.name}; allowed: one")
        unique.discard(machine.name)
    return numbered
