"""One obvious Llama in NumPy: what the engine must compute, slow and plain.

It reads a GGUF file, dequantizes with the ``gguf`` package and knows nothing of kernels,
threads or chunks. NumpyEngine gives it the interface of edgellama's Engine.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType, quants

from edgellama.engine.scheduling.scheduler import Scheduler
from edgellama.quant.errors import ContextLengthError, GenerationCancelled

HALF_SPLIT = ("qwen2", "qwen3", "exaone")
"""Architectures whose positions rotate halves of a head, not neighbouring elements."""
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Cancellable(Protocol):
    """What forward() asks of a cancel token."""

    @property
    def cancelled(self) -> bool:
        """Whether the step must stop."""
        ...


class NumpyCache:
    """Keys and values of one sequence, [layers, context, kv_heads, head_size]."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: Any) -> None:
        self.keys = np.zeros(shape, dtype)
        self.values = np.zeros(shape, dtype)
        self.context_length = shape[1]
        self.tokens: list[int] = []

    @property
    def num_bytes(self) -> int:
        """Bytes of both arrays."""
        return int(self.keys.nbytes + self.values.nbytes)

    @property
    def length(self) -> int:
        """How many positions are in use."""
        return len(self.tokens)

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what is there of a prompt, all but its last token at most."""
        pairs = zip(self.tokens, prompt[:-1], strict=False)
        different = (i for i, (one, other) in enumerate(pairs) if one != other)
        shared = next(different, min(self.length, len(prompt) - 1))
        self.truncate(shared)
        return shared

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} positions to {length}")
        del self.tokens[length:]

    def passing_room(self, length: int) -> int:
        """How many tokens behind ``length`` may come and be forgotten again."""
        return self.context_length - length

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True)
class Shape:
    """The hyperparameters that the arithmetic needs, under the names of edgellama's ModelConfig."""

    context_length: int
    vocab_size: int
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: int
    head_size: int
    rms_epsilon: float
    rope_base: float
    rope_scaling: str
    rope_factor: float
    rope_original_context: int
    sliding_window: int | None
    is_half_split: bool

    @classmethod
    def from_metadata(cls, metadata: Any, vocab_size: int) -> "Shape":
        """Read the keys under the architecture's name, with the format's defaults."""
        architecture = metadata["general.architecture"]
        prefix = f"{architecture}."
        keys = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
        heads = int(keys["attention.head_count"])
        width = int(keys["embedding_length"])
        return cls(
            context_length=int(keys["context_length"]),
            vocab_size=vocab_size,
            embedding_length=width,
            block_count=int(keys["block_count"]),
            head_count=heads,
            head_count_kv=int(keys.get("attention.head_count_kv", heads)),
            head_size=int(keys.get("attention.key_length", width // heads)),
            rms_epsilon=float(keys["attention.layer_norm_rms_epsilon"]),
            rope_base=float(keys.get("rope.freq_base", 10000.0)),
            rope_scaling=str(keys.get("rope.scaling.type", "none")),
            rope_factor=float(keys.get("rope.scaling.factor", 1.0)),
            rope_original_context=int(keys.get("rope.scaling.original_context_length", 0)),
            sliding_window=keys.get("attention.sliding_window"),
            is_half_split=architecture in HALF_SPLIT,
        )


class NumpyLlama:
    """The model of one GGUF file; ``file`` has ``metadata`` and ``tensors`` as GGUFFile has.

    All arithmetic is done in ``dtype`` (float64 unless said otherwise).
    """

    def __init__(self, file: Any, dtype: Any = np.float64) -> None:
        self.dtype = dtype
        self.weights = {name: dequantized(t).astype(dtype) for name, t in file.tensors.items()}
        vocab_size = len(self.weights["token_embd.weight"])
        self.shape = Shape.from_metadata(file.metadata, vocab_size)

    def new_cache(self, context_length: int | None = None, kv_dtype: Any = None) -> NumpyCache:
        """An empty cache; ``kv_dtype`` float16 rounds keys and values as an F16 cache does."""
        s = self.shape
        length = context_length or s.context_length
        return NumpyCache(
            (s.block_count, length, s.head_count_kv, s.head_size), kv_dtype or self.dtype
        )

    def forward(self, tokens: Sequence[int], cache: NumpyCache | None = None) -> Array:
        """Logits [len(tokens), vocab_size] of all positions, appended to ``cache`` if given."""
        cache = cache or self.new_cache(max(1, len(tokens)))
        positions = np.arange(cache.length, cache.length + len(tokens))
        x = self.weights["token_embd.weight"][np.asarray(tokens, dtype=np.int64)]
        for layer in range(self.shape.block_count):
            normed = self._norm(f"blk.{layer}.attn_norm", x)
            x = x + self._attention(layer, normed, positions, cache)
            x = x + self._feed_forward(layer, self._norm(f"blk.{layer}.ffn_norm", x))
        cache.tokens += [int(token) for token in tokens]
        x = self._norm("output_norm", x)
        output = "output" if "output.weight" in self.weights else "token_embd"
        return self._linear(output, x)

    def _linear(self, name: str, x: Array) -> Array:
        y: Array = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def _norm(self, name: str, x: Array) -> Array:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        root = np.sqrt(mean_square + self.shape.rms_epsilon)
        normed: Array = x / root * self.weights[f"{name}.weight"]
        return normed

    def _head_norm(self, name: str, heads: Array) -> Array:
        return self._norm(name, heads) if f"{name}.weight" in self.weights else heads

    def _feed_forward(self, layer: int, x: Array) -> Array:
        gate = self._linear(f"blk.{layer}.ffn_gate", x)
        up = self._linear(f"blk.{layer}.ffn_up", x)
        return self._linear(f"blk.{layer}.ffn_down", gate / (1 + np.exp(-gate)) * up)

    def _attention(self, layer: int, x: Array, positions: Array, cache: NumpyCache) -> Array:
        s, count = self.shape, len(x)
        heads = {"q": s.head_count, "k": s.head_count_kv, "v": s.head_count_kv}
        q, k, v = (
            self._linear(f"blk.{layer}.attn_{name}", x).reshape(count, heads[name], s.head_size)
            for name in "qkv"
        )
        q, k = (
            self._head_norm(f"blk.{layer}.attn_q_norm", q),
            self._head_norm(f"blk.{layer}.attn_k_norm", k),
        )
        end = cache.length + count
        cache.keys[layer, cache.length : end] = self._rotate(k, positions)
        cache.values[layer, cache.length : end] = v
        group = s.head_count // s.head_count_kv
        keys = np.repeat(cache.keys[layer, :end].astype(self.dtype), group, axis=1)
        values = np.repeat(cache.values[layer, :end].astype(self.dtype), group, axis=1)
        scores = np.einsum("qhd,khd->hqk", self._rotate(q, positions), keys) / np.sqrt(s.head_size)
        distances = positions[:, None] - np.arange(end)[None, :]
        visible = (distances >= 0) & (distances < (s.sliding_window or end))
        scores = np.where(visible, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities = scores / scores.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", probabilities, values)
        return self._linear(f"blk.{layer}.attn_output", mixed.reshape(count, -1))

    def _rotate(self, x: Array, positions: Array) -> Array:
        """Rotate each pair of every head by position x frequency i.

        A pair is (2i, 2i+1), or (i, i + half) where heads are split in halves.
        """
        half = self.shape.head_size // 2
        frequencies, magnitude = rope_frequencies(self.shape)
        frequencies = frequencies / self.weights.get("rope_freqs.weight", np.ones(half))
        angles = positions[:, None, None] * frequencies
        cos, sin = magnitude * np.cos(angles), magnitude * np.sin(angles)
        is_half_split = self.shape.is_half_split
        first, second = (
            (x[..., :half], x[..., half:]) if is_half_split else (x[..., 0::2], x[..., 1::2])
        )
        turned = [first * cos - second * sin, first * sin + second * cos]
        pairs = np.concatenate(turned, -1) if is_half_split else np.stack(turned, -1)
        return pairs.reshape(x.shape).astype(self.dtype)


def rope_frequencies(shape: Shape) -> tuple[Array, float]:
    """Radians per position of each pair [head_size / 2], and what all rotations are scaled by.

    YaRN as in https://arxiv.org/abs/2309.00071: pairs that turn 32 times or more within the
    original context stay, those that turn less than once are interpolated, between is a ramp.
    """
    half = shape.head_size // 2
    frequencies = shape.rope_base ** (-np.arange(half) / half)
    if shape.rope_scaling == "none":
        return frequencies, 1.0
    interpolated = frequencies / shape.rope_factor
    if shape.rope_scaling == "linear":
        return interpolated, 1.0

    def pair_that_turns(times: float) -> float:
        turns_of_base = shape.rope_original_context / (2 * np.pi * times)
        return float(half * np.log(turns_of_base) / np.log(shape.rope_base))

    first = max(np.floor(pair_that_turns(32)), 0)
    last = min(np.ceil(pair_that_turns(1)), shape.head_size - 1)
    ramp = np.clip((np.arange(half) - first) / (last - first), 0, 1)
    magnitude = 1 + 0.1 * float(np.log(shape.rope_factor))
    return ramp * interpolated + (1 - ramp) * frequencies, magnitude


class NumpyEngine:
    """NumpyLlama behind the interface of edgellama's Engine, for tests of the layers above.

    ``forwarded`` records how many tokens each step computed.
    """

    CHUNK_TOKENS = 512

    def __init__(self, file: Any, dtype: Any = np.float64, **_: Any) -> None:
        self.llama = NumpyLlama(file, dtype)
        self.config = self.llama.shape
        self.num_threads = 1
        self.low_priority = self.orders_choices = False
        self.kernels = None
        self.hooks: tuple[object, ...] = ()
        self.scheduler = Scheduler(lambda segments, cancelled: None, self.CHUNK_TOKENS)
        self.forwarded: list[int] = []
        self._lock = threading.Lock()

    def new_cache(self, context_length: int | None = None, *, kv_type: str = "f16") -> NumpyCache:
        """An empty cache of ``context_length`` positions (None: the model's own)."""
        return self.llama.new_cache(context_length, {"f16": np.float16, "f32": np.float32}[kv_type])

    def stop_step(self) -> None:
        """Nothing: its steps end by themselves."""

    def forward(
        self,
        tokens: Sequence[int],
        cache: NumpyCache,
        *,
        logits: Literal["last", "all", "next", "each", "none"] = "last",
        cancelled: Cancellable | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Array:
        """Float32 logits of the last, all or no positions; raises as Engine.forward does."""
        total = len(tokens)
        if cache.length + total > cache.context_length:
            raise ContextLengthError(
                f"{cache.length + total} tokens do not fit a context of {cache.context_length}",
                cache.length + total,
                cache.context_length,
            )
        rows: list[Array] = []
        with self._lock:
            for start in range(0, total, self.CHUNK_TOKENS):
                if cancelled is not None and cancelled.cancelled:
                    raise GenerationCancelled("the step was cancelled")
                chunk = tokens[start : start + self.CHUNK_TOKENS]
                rows.append(self.llama.forward(chunk, cache).astype(np.float32))
                self.forwarded.append(len(chunk))
                if progress is not None:
                    progress(start + len(chunk), total)
        first = {"last": -1, "next": -1, "none": total}.get(logits, 0)
        return np.concatenate(rows)[first:].copy()

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> "NumpyEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def dequantized(tensor: Any) -> Array:
    """A tensor of a GGUFFile (raw uint8 ``data``, ``shape``, ``format``) as float32."""
    ggml_type = GGMLQuantizationType(tensor.format.ggml_id)
    rows = np.ascontiguousarray(tensor.data).reshape(*tensor.shape[:-1], -1)
    return quants.dequantize(rows, ggml_type).reshape(tensor.shape)
