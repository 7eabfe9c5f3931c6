"""Counters and gauges as Prometheus reads them; plain text needs no library."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.generation.results import Generation

FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What a server has done so far; counted from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._texts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._first_tokens: list[int] = [0] * (len(FIRST_TOKEN_BUCKETS) + 1)
        self._first_tokens_s = 0.0

    def count_request(self, route: str, status: int) -> None:
        """A request was answered with this status."""
        with self._lock:
            self._requests[route, status] += 1

    def count_text(self, result: Generation) -> None:
        """A text has ended."""
        figures = result.statistics
        with self._lock:
            self._texts[result.finish_reason] += 1
            self._tokens["prompt"] += result.prompt_tokens
            self._tokens["prefilled"] += figures.prefilled_tokens
            self._tokens["generated"] += len(result.tokens)
            self._seconds["prefill"] += figures.prefill_s  # type: ignore[assignment]
            self._seconds["decode"] += figures.decode_s  # type: ignore[assignment]
            first_s = figures.time_to_first_token_s
            bucket = sum(first_s > limit for limit in FIRST_TOKEN_BUCKETS)
            self._first_tokens[bucket] += 1
            self._first_tokens_s += first_s

    @property
    def counts(self) -> Mapping[str, float]:
        """The totals by name, for /stats."""
        with self._lock:
            return {
                "requests": sum(self._requests.values()),
                "texts": sum(self._texts.values()),
                **{f"{name}_tokens": count for name, count in self._tokens.items()},
                **{f"{name}_seconds": value for name, value in self._seconds.items()},
            }

    def as_text(self, gauges: Mapping[str, float]) -> str:
        """Everything in Prometheus' text format; ``gauges`` are of this moment."""
        with self._lock:
            lines = [
                *_family(
                    "requests_total",
                    "counter",
                    "Requests by route and status.",
                    (
                        (f'{{route="{route}",status="{status}"}}', count)
                        for (route, status), count in sorted(self._requests.items())
                    ),
                ),
                *_family(
                    "texts_total",
                    "counter",
                    "Texts by why they ended.",
                    (
                        (f'{{finish_reason="{reason}"}}', count)
                        for reason, count in sorted(self._texts.items())
                    ),
                ),
                *_family(
                    "tokens_total",
                    "counter",
                    "Tokens of prompts, computed, generated.",
                    ((f'{{kind="{kind}"}}', count) for kind, count in sorted(self._tokens.items())),
                ),
                *_family(
                    "compute_seconds_total",
                    "counter",
                    "Seconds of both phases.",
                    (
                        (f'{{phase="{phase}"}}', value)
                        for phase, value in sorted(self._seconds.items())
                    ),
                ),
                *self._first_token_lines(),
            ]
        for name, value in gauges.items():
            lines += _family(
                name, "gauge", f"{name.replace('_', ' ').capitalize()}.", (("", value),)
            )
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
    lines = [f"{full}{labels} {value:g}" for labels, value in samples]
    return [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *lines]
