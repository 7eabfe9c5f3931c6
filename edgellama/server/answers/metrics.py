"""Counters and gauges as Prometheus reads them; plain text needs no library.

``answers`` and ``application`` count, ``plain_routes`` has the path.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.generation.results import Generation

FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


TOTALS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "requests": ("Requests by route and status.", ("route", "status")),
    "texts": ("Texts by why they ended.", ("finish_reason",)),
    "tokens": ("Tokens of prompts, computed, generated.", ("kind",)),
    "compute_seconds": ("Seconds of both phases.", ("phase",)),
}
"""What is counted: its explanation, and the names of its labels."""


@dataclass
class Total:
    """A sum by the values of its labels."""

    text: str
    labels: tuple[str, ...]
    by_labels: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, values: tuple[str, ...], amount: float = 1) -> None:
        """Add to the counter."""
        self.by_labels[values] = self.by_labels.get(values, 0) + amount

    @property
    def sum(self) -> float:
        """The sum over all labels."""
        return sum(self.by_labels.values())

    def samples(self) -> Iterator[tuple[str, float]]:
        """Labels as Prometheus writes them, with their sums."""
        for values, amount in sorted(self.by_labels.items()):
            pairs = zip(self.labels, values, strict=True)
            yield "{" + ",".join(f'{name}="{value}"' for name, value in pairs) + "}", amount


class Metrics:
    """What a server has done so far; counted from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = {name: Total(*told) for name, told in TOTALS.items()}
        self._first_tokens: list[int] = [0] * (len(FIRST_TOKEN_BUCKETS) + 1)
        self._first_tokens_s = 0.0

    def count_request(self, route: str, status: int) -> None:
        """A request was answered with this status."""
        with self._lock:
            self._totals["requests"].add((route, str(status)))

    def count_text(self, result: Generation) -> None:
        """A text has ended."""
        figures = result.statistics
        totals = self._totals
        with self._lock:
            totals["texts"].add((result.finish_reason,))
            totals["tokens"].add(("prompt",), result.prompt_tokens)
            totals["tokens"].add(("prefilled",), figures.prefilled_tokens)
            totals["tokens"].add(("generated",), len(result.tokens))
            totals["compute_seconds"].add(("prefill",), figures.prefill_s)
            totals["compute_seconds"].add(("decode",), figures.decode_s)
            first_s = figures.time_to_first_token_s
            self._first_tokens[sum(first_s > limit for limit in FIRST_TOKEN_BUCKETS)] += 1
            self._first_tokens_s += first_s

    @property
    def counts(self) -> Mapping[str, float]:
        """The totals by name, for /stats."""
        with self._lock:
            tokens = self._totals["tokens"].by_labels
            seconds = self._totals["compute_seconds"].by_labels
            return {
                "requests": self._totals["requests"].sum,
                "texts": self._totals["texts"].sum,
                **{f"{kind}_tokens": count for (kind,), count in tokens.items()},
                **{f"{phase}_seconds": value for (phase,), value in seconds.items()},
            }

    def as_text(self, gauges: Mapping[str, float]) -> str:
        """Everything in Prometheus' text format; ``gauges`` are of this moment."""
        with self._lock:
            lines = [
                line
                for name, total in self._totals.items()
                for line in _family(f"{name}_total", "counter", total.text, total.samples())
            ]
            lines += self._first_token_lines()
        for name, value in gauges.items():
            text = f"{name.replace('_', ' ').capitalize()}."
            lines += _family(name, "gauge", text, (("", value),))
        return "\n".join(lines) + "\n"

    def _first_token_lines(self) -> list[str]:
        total, samples = 0, []
        for limit, count in zip((*FIRST_TOKEN_BUCKETS, "+Inf"), self._first_tokens, strict=True):
            total += count
            samples.append((f'_bucket{{le="{limit}"}}', float(total)))
        samples += [("_sum", self._first_tokens_s), ("_count", float(total))]
        return _family("first_token_seconds", "histogram", "Seconds to a first token.", samples)


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    full = f"edgellama_{name}"
    lines = [f"{full}{labels} {value:.15g}" for labels, value in samples]
    return [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *lines]
