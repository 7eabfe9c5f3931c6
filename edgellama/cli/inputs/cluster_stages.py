"""Opens a model over several machines for a command: makes a plan, then starts a stage on each.

``cluster.planning`` makes the plan, ``cluster.ray_stages`` starts the stages.
"""

from __future__ import annotations

from dataclasses import field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellama.cluster.machines import ClusterMachine
    from edgellama.cluster.planning import Plan, Wish
    from edgellama.cluster.spread_llama import SpreadLlama
    from edgellama.cluster.stages.stage_call import StageHandle
    from edgellama.quant.gguf.file import GGUFFile

USUAL_TYPE = "q4_k_m"
HOST_THREADS = 8
"""Threads of each machine, of which memory for activations depends a little."""
SPREAD_ARGUMENTS = (
    *("context_length", "kv_type", "exact", "num_threads", "rope_scaling", "speculation"),
    "low_priority",
)
"""Of ``engine_options``: what a model over several machines has."""


@dataclass(frozen=True)
class SpreadModel:
    """A model of which it is known where its layers go.

    ``stage_options`` are those of ``Stage``; ``model_options`` those of ``SpreadLlama``.
    """

    path: str
    plan: Plan
    here: str
    stage_options: dict[str, Any]
    model_options: dict[str, Any] = field(default_factory=dict)
    low_priority: bool = False

    @property
    def num_bytes(self) -> int:
        """What it takes on this machine, which drives."""
        return sum(stage.total_bytes for stage in self.plan.stages if stage.is_driver)

    def connect(self, address: str | None) -> None:
        """Join the cluster if any layers go to another machine; else tell of an idle address."""
        from edgellama.cluster.ray_cluster import connect

        if any(stage.machine.name != self.here for stage in self.plan.stages):
            connect(address)
        elif address is not None:
            click.echo(
                f"--address {address} is not used: this machine, {self.here}, has room for all "
                "layers",
                err=True,
            )

    def open(self) -> SpreadLlama:
        """Start all stages, and the model over them."""
        from edgellama.cluster.spread_llama import SpreadLlama

        llama = SpreadLlama(self.path, partial(_stages, self), **self.model_options)
        try:
            if self.low_priority:
                llama.low_priority = True
        except BaseException:
            llama.close()
            raise
        return llama


def connected_model(
    model: str,
    machines_text: str,
    address: str | None,
    engine: Mapping[str, Any],
    *,
    num_texts: int = 1,
) -> SpreadModel:
    """A model with options of ``engine_options``, over machines that this process has joined.

    A UsageError for an option that such a model does not have.
    """
    if wrong := [name for name in engine if name not in SPREAD_ARGUMENTS]:
        allowed = ", ".join(map(_as_typed, SPREAD_ARGUMENTS))
        raise click.UsageError(
            f"{_as_typed(wrong[0])} is nothing that a model over several machines has; allowed "
            f"with --machines: {allowed}"
        )
    spread = spread_model(model, machines_text, num_texts=num_texts, **engine)
    spread.connect(address)
    return spread


def _as_typed(argument: str) -> str:
    """The option of the running command that an argument comes from."""
    options = click.get_current_context().command.params
    return next((each.opts[-1] for each in options if each.name == argument), argument)


def open_spread(
    machines_text: str, address: str | None, engine: Mapping[str, Any], model: str | Path
) -> SpreadLlama:
    """The model in a file, or under a name that all machines know, over several machines."""
    from edgellama.cli.garbage import end_start

    llama = connected_model(str(model), machines_text, address, engine).open()
    end_start()
    return llama


def spread_model(
    model: str,
    machines_text: str,
    *,
    num_texts: int = 1,
    context_length: int | None = None,
    kv_type: str = "f16",
    exact: bool = False,
    num_threads: int | None = None,
    low_priority: bool = False,
    **model_options: Any,
) -> SpreadModel:
    """Plan where the layers of ``model`` go; a ClickException where they do not fit."""
    from edgellama.cluster.machines import read_machines

    wish = wish_for(model, None, kv_type, context_length, num_texts, needs_file=True)
    machines = read_machines(machines_text)
    rope_scaling = model_options.get("rope_scaling")
    return SpreadModel(
        model,
        found_plan(wish, machines),
        machines[0].name,
        {"kv_type": kv_type, "exact": exact, "num_threads": num_threads,
         "rope_scaling": rope_scaling},
        {"context_length": wish.context_length, "kv_type": kv_type} | model_options,
        low_priority,
    )  # fmt: skip


def wish_for(
    model: str,
    type: str | None,
    kv_type: str,
    context_length: int | None,
    num_texts: int,
    *,
    needs_file: bool = False,
) -> Wish:
    """What the options say; ``needs_file``: a published size is not enough."""
    from edgellama.cli.inputs.model_outline_source import find_outline
    from edgellama.cluster.planning import Wish
    from edgellama.engine.pages.kv_types import KVTypes
    from edgellama.kernels_cpu.machine.cpu import select_tier
    from edgellama.measure.footprint import AS_IT_IS, Machine, usual_context_length

    source = find_outline(model)
    if needs_file and source.path is None:
        raise click.ClickException(f"{model}: needed: a GGUF file, or the name of a pulled model")
    return Wish(
        source.outline,
        type or (USUAL_TYPE if source.path is None else AS_IT_IS),
        KVTypes.of(kv_type),
        context_length or usual_context_length(source.outline.config),
        Machine(select_tier(), HOST_THREADS),
        num_texts,
    )


def found_plan(wish: Wish, machines: Sequence[ClusterMachine]) -> Plan:
    """The plan; a ClickException with what would fit where none does."""
    from edgellama.cluster.planning import plan
    from edgellama.quant.errors import InvalidOptionError

    try:
        return plan(wish, machines)
    except InvalidOptionError as error:
        raise click.ClickException(f"{error}{_what_would_fit(wish, machines)}") from None


def _what_would_fit(wish: Wish, machines: Sequence[ClusterMachine]) -> str:
    """The best type that fits the machines as they are."""
    from dataclasses import replace

    from edgellama.cluster.planning import fits
    from edgellama.measure.footprint_fit import TYPES_BY_QUALITY

    for type in TYPES_BY_QUALITY:
        if fits(replace(wish, type=type), machines):
            return f", or --type {type}"
    return ""


def _stages(spread: SpreadModel, file: GGUFFile) -> list[StageHandle]:
    """What this machine has, if anything, in this process; the others' on Ray's nodes."""
    from edgellama.cluster.ray_stages import start_stages
    from edgellama.cluster.stage_actor import StageOrder
    from edgellama.cluster.stages.local_stage import LocalStage
    from edgellama.cluster.stages.stage import Stage
    from edgellama.engine.model_identity import model_identity

    where = str(Path(spread.path).resolve()) if Path(spread.path).exists() else spread.path
    identity, options = model_identity(file), spread.stage_options
    own = [stage.layers for stage in spread.plan.stages if stage.machine.name == spread.here]
    stages = start_stages(
        [
            StageOrder(where, stage.layers, identity, stage.machine.name, options)
            for stage in spread.plan.stages
            if stage.machine.name != spread.here
        ]
    )
    try:
        local = [LocalStage(partial(Stage, file, layers, **options)) for layers in own]
    except BaseException:
        for stage in stages:
            stage.close()
        raise
    return [*local, *stages]
