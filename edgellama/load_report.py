"""What loading a model did, in lines for a log: its file, types, code and memory.

``loading`` logs them at DEBUG.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgellama.engine.pages.kv_types import KVTypes
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes

if TYPE_CHECKING:
    from edgellama.engine.engine import Engine
    from edgellama.quant.gguf.file import GGUFFile


def load_report(file: GGUFFile, engine: Engine, kv_type: str, context_length: int) -> list[str]:
    """One line each for file, model, engine and memory; sizes in megabytes of 10^6 bytes."""
    config = engine.config
    tensor_bytes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        tensor_bytes[tensor.format.name] += tensor.num_bytes
    types = ", ".join(f"{name} {_megabytes(size)}" for name, size in tensor_bytes.most_common())
    num_heads = config.block_count * config.head_count_kv
    token_bytes = num_heads * KVTypes.of(kv_type).position_bytes(config.head_size)
    return [
        f"file {file.path}: {_megabytes(file.file_bytes)}, mapped; tensors: {types}",
        f"model: {config.block_count} layers, embedding {config.embedding_length}, vocabulary "
        f"{config.vocab_size}, context {config.context_length} tokens",
        f"engine: {engine.num_threads} threads, tier {engine.tier.name}, "
        f"{engine.kernels.code_bytes / 1e3:.1f} kB of machine code, kernels compiled for it: "
        f"{engine.num_compiled}",
        f"memory: a KV cache ({kv_type}) of {context_length} tokens takes "
        f"{_megabytes(context_length * token_bytes)} once it is full; the process's peak so far is "
        f"{_megabytes(peak_memory_bytes())}",
    ]


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
