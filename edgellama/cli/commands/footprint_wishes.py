"""What ``edgellama footprint`` predicts: each combination of the types and lengths asked for.

``measure.footprint`` predicts one of them, ``measure.footprint_fit`` what fits into a memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellama.cli.inputs.model_outline_source import OutlineSource
    from edgellama.cli.options.adapter_option import AdapterPath
    from edgellama.measure.footprint import Footprint, Machine

USUAL_TYPES = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k")
USUAL_KV_TYPES = ("f16", "q8_0")
FITTING_KV_TYPES = ("f16", "q8_0", "q8_0/q4_0", "q4_0")


@dataclass(frozen=True)
class PredictionWishes:
    """What to predict for; None for what is usual."""

    types: Sequence[str] | None
    kv_types: Sequence[str] | None
    context_lengths: Sequence[int] | None
    is_pure: bool
    num_threads: int | None
    prompt_cache_bytes: int
    draft: OutlineSource | None
    on_card: bool
    num_texts: int
    adapters: Sequence[AdapterPath] = ()

    def draft_bytes(self, type: str, context_length: int) -> int:
        """What a draft model takes: as its file is, else of the model's type, or the usual one."""
        from edgellama.measure.footprint import AS_IT_IS, draft_model_bytes
        from edgellama.models.checkpoints import DEFAULT_TYPE

        if self.draft is None:
            return 0
        if self.draft.path is not None:
            type = AS_IT_IS
        elif type == AS_IT_IS:
            type = DEFAULT_TYPE
        outline = self.draft.outline
        return draft_model_bytes(
            outline,
            self.machine,
            type=type,
            context_length=context_length,
            num_texts=self.num_texts,
        )

    @property
    def adapter_bytes(self) -> int:
        """What the adapters take together."""
        from edgellama.measure.file_footprint import adapter_bytes

        return sum(adapter_bytes(path) for path, _ in self.adapters)

    @property
    def machine(self) -> Machine:
        """This one, with the threads that were asked for."""
        from edgellama.engine.running.machinery import checked_num_threads
        from edgellama.kernels_cpu.machine.cpu import select_tier
        from edgellama.measure.footprint import Machine

        return Machine(select_tier(), checked_num_threads(self.num_threads))


def predictions_for(
    source: OutlineSource, wishes: PredictionWishes, memory_bytes: int | None
) -> list[Footprint]:
    """All combinations; with a memory to fit, those that do, the best first."""
    from edgellama.engine.pages.kv_types import KVTypes
    from edgellama.measure.footprint import predict, usual_context_length
    from edgellama.measure.footprint_fit import fitting

    machine, adapter_bytes = wishes.machine, wishes.adapter_bytes
    types = wishes.types or _usual_types(source, memory_bytes is not None)
    usual = FITTING_KV_TYPES if memory_bytes is not None else USUAL_KV_TYPES
    kv_pairs = [KVTypes.of(kv_type) for kv_type in wishes.kv_types or usual]
    lengths = wishes.context_lengths or [usual_context_length(source.outline.config)]
    predictions = [
        predict(
            source.outline,
            machine,
            type=type,
            kv_types=kv_types,
            context_length=context_length,
            is_pure=wishes.is_pure,
            prompt_cache_bytes=wishes.prompt_cache_bytes,
            draft_bytes=wishes.draft_bytes(type, context_length),
            adapter_bytes=adapter_bytes,
            on_card=wishes.on_card,
            num_texts=wishes.num_texts,
        )
        for type in types
        for kv_types in kv_pairs
        for context_length in lengths
    ]
    if memory_bytes is None:
        return predictions
    fits = fitting(predictions, memory_bytes)
    if not fits:
        from edgellama.cli.output.tables import size

        smallest = min(predictions, key=lambda prediction: prediction.total_bytes)
        raise click.ClickException(
            f"nothing fits {size(memory_bytes)}; the smallest, {smallest.type} with KV "
            f"{smallest.kv_types} and {smallest.context_length} tokens, takes "
            f"{size(smallest.total_bytes)}"
        )
    return fits


def _usual_types(source: OutlineSource, is_fit: bool) -> Sequence[str]:
    """A file as it is; to fit it, also what it could be converted to with fewer bits."""
    from edgellama.measure.footprint import AS_IT_IS
    from edgellama.measure.footprint_fit import TYPES_BY_QUALITY, types_below

    if source.path is None:
        return TYPES_BY_QUALITY if is_fit else USUAL_TYPES
    return (AS_IT_IS, *(types_below(source.outline) if is_fit else ()))
