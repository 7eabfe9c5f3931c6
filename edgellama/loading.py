"""Loads a model by a path or a name: file, tokenizer and engine.

``open_model`` holds them.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from edgellama.engine.card.choice import AttentionChoice
from edgellama.engine.context_memory import MemoryNeed
from edgellama.engine.engine import Engine
from edgellama.engine.idle_watch import check_idle_seconds
from edgellama.engine.pages.kv_types import KVTypeChoice, KVTypes
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.usual_kernels import usual_kernels
from edgellama.models.names import resolve
from edgellama.models.usage import note_use
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.free_memory import available_memory_bytes
from edgellama.quant.gguf.file import GGUFFile, require_model
from edgellama.quant.given_values import check_function, is_number, is_true, whole_or_none
from edgellama.quant.progress import Progress
from edgellama.quant.records import dataclass
from edgellama.quant.rope_choice import choice_for
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger("edgellama.llama")

CACHE_SHARE_OF_MEMORY = 0.25
"""What the beginnings of earlier texts may take where nobody says how much, if it is known."""


@dataclass(frozen=True)
class ModelParts:
    """What a model is made of; ``context_length`` and ``kv_type`` are those of its sessions."""

    file: GGUFFile
    tokenizer: Tokenizer
    engine: TextEngine
    context_length: int
    kv_type: str


def load_model(
    path_or_name: str | os.PathLike[str],
    *,
    context_length: int | None,
    num_threads: int | None,
    kv_type: KVTypeChoice,
    quantize: str | None,
    cache_limit: int | None,
    exact: bool,
    rope_scaling: str | None,
    attention: AttentionChoice,
    low_priority: bool,
    idle_seconds: float | None,
    progress: Progress | None,
    compile_usual: bool,
) -> ModelParts:
    """Load a model, with the arguments of ``Llama``; what fails leaves nothing open."""
    started = time.perf_counter()
    types = KVTypes.of(kv_type)
    context_length = whole_or_none("context_length", context_length, 1)
    check_cache_limit(cache_limit)
    check_function("progress", progress, "two numbers")
    is_true("exact", exact)
    is_true("compile_usual", compile_usual)
    is_true("low_priority", low_priority)
    check_idle_seconds(idle_seconds)
    path = _runnable_file(path_or_name, quantize, progress)
    # Before the file is mapped, which ulimit counts.
    available_bytes = available_memory_bytes()
    note_use(path)
    file = GGUFFile(path)
    try:
        require_model(file)
        tokenizer = load_tokenizer(file.metadata, file.path)
        engine = Engine(
            file,
            num_threads=num_threads,
            kv_type=str(types),
            cache_limit=int((available_bytes or 0) * CACHE_SHARE_OF_MEMORY)
            if cache_limit is None
            else cache_limit,
            exact=exact,
            rope_scaling=choice_for(file, rope_scaling, context_length),
            attention=attention,
            progress=progress,
            companions=usual_kernels() if compile_usual else (),
        )
        if low_priority:
            engine.low_priority = True
        engine.idle_seconds = idle_seconds
    except BaseException:
        file.close()
        raise
    memory = MemoryNeed(engine.config, types, file.file_bytes, available_bytes)
    if attention.mode != "cuda":  # Else keys and values lie on the card.
        memory.warn(context_length)
    if context_length is None:
        context_length = memory.fitting_context_length()
    _log_load(file, engine, str(types), context_length, time.perf_counter() - started)
    return ModelParts(file, tokenizer, engine, context_length, str(types))


def check_cache_limit(limit: Any, *, is_needed: bool = False) -> None:
    """InvalidOptionError for less than nothing, and for no number; None only if not needed."""
    if (limit is None and not is_needed) or (is_number(limit) and limit >= 0):
        return
    allowed = "bytes from 0" if is_needed else "None, or bytes from 0"
    raise InvalidOptionError(f"cache_limit is {shown(limit)}; allowed: {allowed}")


def _runnable_file(
    path_or_name: str | os.PathLike[str], quantize: str | None, progress: Progress | None
) -> Path:
    if quantize is None:
        return resolve(path_or_name)
    from edgellama.models.checkpoints import converted

    return converted(path_or_name, quantize, kernel_progress=progress)


def _log_load(
    file: GGUFFile, engine: Engine, kv_type: str, context_length: int, seconds: float
) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        from edgellama.load_report import load_report

        for line in load_report(file, engine, kv_type, context_length):
            logger.debug(line)
        logger.debug("loaded in %.2f s", seconds)
