"""Predicts what a model's file will take when it is loaded, for choosing among models.

``footprint`` makes the prediction; this module fills in its usual arguments.
"""

from __future__ import annotations

import math
import os

from edgellama.engine.card.choice import AttentionMode
from edgellama.engine.pages.kv_types import KVTypeChoice, KVTypes
from edgellama.engine.running.machinery import checked_num_threads
from edgellama.kernels_cpu.machine.cpu import select_tier
from edgellama.measure.footprint import (
    AS_IT_IS,
    Footprint,
    Machine,
    draft_model_bytes,
    predict,
    usual_context_length,
)
from edgellama.measure.model_outline import ModelOutline
from edgellama.quant.errors import ModelFileError
from edgellama.quant.formats import FORMATS_BY_NAME
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.given_values import whole_number


def predict_footprint(
    path: str | os.PathLike[str],
    *,
    context_length: int | None = None,
    kv_type: KVTypeChoice = "f16",
    num_threads: int | None = None,
    draft: str | os.PathLike[str] | None = None,
    attention: AttentionMode = "cpu",
    num_texts: int = 1,
) -> Footprint:
    """Predict how much memory a process with this model will take at most, without loading it.

    Arguments:
        path: A GGUF file; only its header is read.
        context_length: Tokens of each session, at most the model's own length; sessions count as
            full. None (the default) is 4,096.
        kv_type: Number type of the KV cache, as for ``Llama``; "f16" by default.
        num_threads: Threads that compute. None (the default) is one per physical core.
        draft: The GGUF file of a draft model that is loaded with it. None (the default) is none.
        attention: "cuda" predicts keys and values on a graphics card, as ``card_bytes``; "cpu" (the
            default) and "auto" predict all of it in the process's memory.
        num_texts: How many texts run at once, each in its own session. 1 by default.

    Returns:
        The prediction: ``total_bytes``, and its parts ``weights_bytes``, ``kv_bytes`` and so on.
        The prompt cache is not counted.

    Raises:
        ModelFileError: The file is damaged or no model.
        UnsupportedModelError: A model that does not run here.
        InvalidOptionError: An argument outside its range.
        OSError: It cannot be read.

    Example:
        >>> from edgellama import Llama, predict_footprint
        >>> from edgellama.models.names import resolve
        >>> footprint = predict_footprint(resolve("smollm2"), context_length=2048)
        >>> 90e6 < footprint.weights_bytes < footprint.total_bytes < 300e6
        True
    """
    outline = _outline(path)
    own_length = outline.config.context_length
    length = usual_context_length(outline.config) if context_length is None else context_length
    length = min(whole_number("context_length", length, 1), own_length)
    num_texts = whole_number("num_texts", num_texts, 1)
    machine = Machine(select_tier(), checked_num_threads(num_threads))
    draft_bytes = 0
    if draft is not None:
        draft_bytes = draft_model_bytes(
            _outline(draft), machine, type=AS_IT_IS, context_length=length, num_texts=num_texts
        )
    return predict(
        outline,
        machine,
        type=AS_IT_IS,
        kv_types=KVTypes.of(kv_type),
        context_length=length,
        draft_bytes=draft_bytes,
        on_card=attention == "cuda",
        num_texts=num_texts,
    )


def adapter_bytes(path: str | os.PathLike[str]) -> int:
    """The bytes that the adapter of a GGUF file takes.

    They are those of its file, and of its ``lora_a`` factors once more as int8 blocks: next to a
    quantized matrix, these factors multiply the same int8 rows as the matrix.

    Raises what opening raises; ModelFileError for a file that is no adapter.
    """
    with GGUFFile(path) as file:
        if file.metadata.get("general.type") != "adapter":
            raise ModelFileError(f"{file.path} is no LoRA adapter; needed: general.type 'adapter'")
        factors = [tensor for name, tensor in file.tensors.items() if name.endswith(".lora_a")]
        blocks = FORMATS_BY_NAME["Q8_0"]
        return file.file_bytes + sum(
            math.prod(factor.shape) * blocks.block_bytes // blocks.block_size for factor in factors
        )


def _outline(path: str | os.PathLike[str]) -> ModelOutline:
    with GGUFFile(path) as file:
        return ModelOutline.from_gguf(file)
