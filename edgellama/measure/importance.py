"""How much each column of each matrix matters for a text: the model runs over it, observed.

``input_squares`` observes, ``convert.imatrix`` writes the figures to a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama.engine.engine import Engine
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.measure.input_squares import InputSquares
from edgellama.measure.text_chunks import cut_text
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile, require_model
from edgellama.quant.records import dataclass
from edgellama.text.tokenizer import load_tokenizer

DEFAULT_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Importance:
    """Sums of squared inputs over ``num_tokens`` tokens, f64 (columns,) by tensor name.

    The text was read in chunks of ``chunk_tokens``, each by itself.
    """

    sums: Mapping[str, npt.NDArray[np.float64]]
    num_tokens: int
    chunk_tokens: int


def measure_importance(
    path: Path,
    text: str,
    *,
    chunk_tokens: int | None = None,
    max_chunks: int | None = None,
    with_output: bool = False,
    num_threads: int | None = None,
    cancelled: CancelToken | None = None,
    progress: Callable[[int, int], None] | None = None,
    kernel_progress: Callable[[int, int], None] | None = None,
) -> Importance:
    """Run the model in ``path`` over ``text`` and add up the squares of its matrices' inputs.

    ``chunk_tokens`` None is 512, or the model's context where that is shorter; what is left of
    the text after whole chunks, or after ``max_chunks``, is not read. ``with_output`` counts the
    output matrix too. ``progress`` hears of (chunks done, chunks in all). Raises
    InvalidOptionError for a text shorter than a chunk, GenerationCancelled, and the errors of
    loading a model.
    """
    with GGUFFile(path) as file:
        require_model(file)
        tokenizer = load_tokenizer(file.metadata, file.path)
        observer = InputSquares()
        with Engine(
            file, num_threads=num_threads, progress=kernel_progress, hooks=[observer]
        ) as engine:
            length = _chunk_length(chunk_tokens, engine.config.context_length)
            chunks = cut_text(tokenizer, text, length)[:max_chunks]
            cache = engine.new_cache(length)
            for done, chunk in enumerate(chunks):
                if progress:
                    progress(done, len(chunks))
                cache.truncate(0)
                engine.forward(chunk, cache, logits="none", cancelled=cancelled)
                observer.take_steps()
            if progress:
                progress(len(chunks), len(chunks))
            sums = observer.totals()
            if not with_output:
                del sums[engine.weights.output.name]
            return Importance(sums, chunks.size, length)


def _chunk_length(chunk_tokens: int | None, context_length: int) -> int:
    if chunk_tokens is None:
        return min(DEFAULT_CHUNK_TOKENS, context_length)
    if not 1 <= chunk_tokens <= context_length:
        raise InvalidOptionError(
            f"chunks of {chunk_tokens} tokens; allowed: 1 to the model's context of "
            f"{context_length}"
        )
    return chunk_tokens
