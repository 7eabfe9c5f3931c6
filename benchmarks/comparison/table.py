"""Results in Markdown: a table a model, then who was measured and how.

What is measured, and in which units, is known to ``figures``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from processes import BUSY_CPUS

from comparison.figures import Quantity, Ratio
from comparison.results import Comparison, EngineResults, ModelResults


def markdown(comparison: Comparison) -> str:
    """All tables and the notes that belong to them."""
    blocks = [_table(comparison, model) for model in comparison.models]
    return "\n\n".join([*blocks, _method(comparison), _engines(comparison), _noise(comparison)])


def title(quantity: Quantity, comparison: Comparison, model: ModelResults) -> str:
    """The words for a quantity, with the sizes that it was measured with."""
    text = {
        "prefill": f"prefill of {comparison.settings.prompt_tokens:,} tokens",
        "decode": "decode",
        "first_token": f"process start to first token, {model.start_tokens}-token prompt",
        "peak_memory": f"peak memory, {comparison.settings.context_length:,} tokens of context",
    }[quantity.figure]
    return f"{text} at depth {quantity.depth:,}" if quantity.depth else text


def _table(comparison: Comparison, model: ModelResults) -> str:
    ours, *peers = model.engines
    header = [model.title, ours.name, *(word for peer in peers for word in (peer.name, "ratio"))]
    lines = [header, ["---"] * len(header)]
    for quantity in sorted(ours.values, key=Quantity.sort_key):
        cells = [title(quantity, comparison, model), _median_text(quantity, ours)]
        lines.append(cells + _peer_cells(quantity, ours, peers))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _peer_cells(
    quantity: Quantity, ours: EngineResults, peers: Sequence[EngineResults]
) -> list[str]:
    cells: list[str] = []
    for peer in peers:
        if quantity in peer.values:
            ratio = Ratio.of(ours.values[quantity], peer.values[quantity])
            cells += [_median_text(quantity, peer), str(ratio)]
        else:
            cells += ["", ""]
    return cells


def _median_text(quantity: Quantity, engine: EngineResults) -> str:
    return quantity.text(median(engine.values[quantity]))


def _method(comparison: Comparison) -> str:
    settings = comparison.settings
    return (
        f"Threads: {settings.num_threads}; KV cache: f16; tokens decoded: "
        f"{settings.decode_tokens}; rounds of alternating fresh processes: {settings.rounds}, "
        "medians. At a depth the context already holds so many tokens. A ratio is the median of "
        "the rounds' own ratios, in brackets the lowest and highest."
    )


def _engines(comparison: Comparison) -> str:
    lines: dict[str, None] = {}
    for model in comparison.models:
        for engine in model.engines:
            if engine.descriptions:
                lines[f"- {engine.name}: {'; '.join(engine.descriptions)}"] = None
    return "\n".join(lines)


def _noise(comparison: Comparison) -> str:
    other = list(_other_cpus(comparison))
    busy = sum(cpus > BUSY_CPUS for cpus in other)
    return (
        f"Other processes kept {median(other):.2f} cores busy (at most {max(other):.2f}); "
        f"{busy} of {len(other)} measurements are doubtful for that."
    )


def _other_cpus(comparison: Comparison) -> Iterator[float]:
    for model in comparison.models:
        for engine in model.engines:
            yield from engine.other_cpus
