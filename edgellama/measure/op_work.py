"""How much work an op does: the bytes that it must move and the products that it must add up.

They are counted from the op's own arguments. Bytes are those that no cache can save within the op:
weights, keys and values once, activations in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.program.key_splits import split_keys_at
from edgellama.engine.program.program import Bound, Op
from edgellama.engine.program.step_values import NUM_OUTPUTS
from edgellama.kernels_cpu.layouts import (
    ALL_KEYS,
    PAGE_POSITIONS,
    PARTIAL_HEAD_BYTES,
    count_splits,
    first_seen,
)
from edgellama.quant.formats import QUANTIZED_FORMATS
from edgellama.quant.records import dataclass

F32_BYTES = 4


@dataclass(frozen=True)
class Work:
    """Bytes moved and multiply-adds."""

    num_bytes: int
    num_macs: int

    def __add__(self, other: Work) -> Work:
        return Work(self.num_bytes + other.num_bytes, self.num_macs + other.num_macs)


@dataclass(frozen=True)
class Step:
    """What of a step decides its work: tokens in it, tokens before it, bytes a cached token."""

    num_tokens: int
    position: int
    cached_token_bytes: int
    """Bytes of one token's keys and values in one layer."""
    split_keys: int = 0
    """Keys of one part where a short step's keys are split; 0: never."""
    window: int = ALL_KEYS
    """Tokens that a token sees at most, itself among them."""

    @classmethod
    def of(cls, num_tokens: int, position: int, cache: KVCache) -> Step:
        """A step of a sequence with these keys and values."""
        cached_token_bytes = cache.layout.layer_bytes // PAGE_POSITIONS
        split_keys = split_keys_at(position)
        return cls(num_tokens, position, cached_token_bytes, split_keys, cache.window)

    @property
    def num_keys(self) -> int:
        """Tokens that some token of the step sees."""
        end = self.position + self.num_tokens
        return end - first_seen(self.position, self.window)

    @property
    def num_pairs(self) -> int:
        """Pairs of a query's token and a token that it sees."""
        ends = range(self.position + 1, self.position + self.num_tokens + 1)
        return sum(min(end, self.window) for end in ends)

    @property
    def num_parts(self) -> int:
        """Parts of keys that all tokens of a short step leave results for; 0 without splits."""
        if not 0 < self.split_keys < self.position + self.num_tokens:
            return 0
        return sum(
            count_splits(position, 1, self.split_keys, self.window)
            for position in range(self.position, self.position + self.num_tokens)
        )


def op_work(op: Op, step: Step) -> Work:
    """The work of an op of a step with one token's logits; of one not known to work, none."""
    count = _COUNTS.get(op.kernel.family)
    if op.arguments.get("num_tokens") == NUM_OUTPUTS:
        step = replace(step, num_tokens=1)
    return count(op, step) if count else Work(0, 0)


def total_work(ops: Iterable[Op], step: Step) -> Work:
    """The work of a whole step."""
    return sum((op_work(op, step) for op in ops), Work(0, 0))


def _number(op: Op, name: str) -> int:
    value = op.arguments[name]
    assert not isinstance(value, Bound)
    return int(value)


def _product(op: Op, step: Step) -> Work:
    rows, columns = _number(op, "num_rows"), _number(op, "num_columns")
    is_quantized = op.kernel.options[0] in QUANTIZED_FORMATS
    read = columns * (1 if is_quantized else F32_BYTES)
    written = rows * F32_BYTES * (2 if _number(op, "accumulate") else 1)
    num_matrices = 1
    if op.arguments.get("up_weights"):
        num_matrices, written = 2, rows
    return Work(
        num_matrices * rows * _number(op, "row_bytes") + step.num_tokens * (read + written),
        num_matrices * step.num_tokens * rows * columns,
    )


def _attention(op: Op, step: Step) -> Work:
    width = _number(op, "num_heads") * _number(op, "head_size")
    cached = step.num_keys * step.cached_token_bytes
    rows = 2 * step.num_tokens * width * F32_BYTES
    return Work(cached + rows, 2 * width * step.num_pairs)


def _merge(op: Op, step: Step) -> Work:
    width = _number(op, "num_heads") * _number(op, "head_size")
    statistics = _number(op, "num_heads") * PARTIAL_HEAD_BYTES
    written = step.num_tokens * width * F32_BYTES if step.num_parts else 0
    return Work(step.num_parts * (width * F32_BYTES + statistics) + written, step.num_parts * width)


def _rope(op: Op, step: Step) -> Work:
    head = _number(op, "head_size") * F32_BYTES
    rotated = 2 * _number(op, "num_heads") * head + 2 * _number(op, "num_kv_heads") * head
    return Work(step.num_tokens * (rotated + step.cached_token_bytes), 0)


def _heads(op: Op, step: Step) -> Work:
    width = _number(op, "num_heads") * _number(op, "head_size")
    return Work(2 * step.num_tokens * width * F32_BYTES, 0)


def _embed(op: Op, step: Step) -> Work:
    row = _number(op, "row_bytes") + F32_BYTES * _number(op, "num_columns")
    return Work(step.num_tokens * row, 0)


def _rows(numbers_moved: int) -> Callable[[Op, Step], Work]:
    """Ops along rows that read and write so many f32 numbers for each column.

    One less where the result is left as int8 alone, which is not counted.
    """

    def count(op: Op, step: Step) -> Work:
        moved = numbers_moved - (op.arguments.get("y") == 0)
        return Work(step.num_tokens * _number(op, "width") * moved * F32_BYTES, 0)

    return count


_COUNTS: Mapping[str, Callable[[Op, Step], Work]] = MappingProxyType(
    {
        "gemv": _product,
        "skinny": _product,
        "gemm": _product,
        "attention_direct": _attention,
        "attention_packed": _attention,
        "merge_attention": _merge,
        "rope_store": _rope,
        "embed": _embed,
        "rms_norm": _rows(2),
        "swiglu": _rows(3),
        "quantize": _rows(1),
        "add_bias": _rows(2),
        "arrange_heads": _heads,
        "scale_tokens": _rows(2),
        "sum_squares": _rows(1),
    }
)
"""By the family of a kernel."""
