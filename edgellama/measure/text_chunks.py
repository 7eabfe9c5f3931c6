"""Cuts a text into whole chunks of tokens, as llama.cpp's perplexity and imatrix tools do.

Each chunk is read by itself, so each begins with BOS if the model wants one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import InvalidOptionError
from edgellama.text.tokenizer import Tokenizer


def cut_text(tokenizer: Tokenizer, text: str, chunk_tokens: int) -> npt.NDArray[np.int32]:
    """Tokens of the text (chunks, chunk_tokens) without the rest, each chunk begun by BOS.

    BOS takes the place of a chunk's first token, if the model wants one at all. Raises
    InvalidOptionError when there is not one chunk.
    """
    bos = tokenizer.special.bos_id if tokenizer.special.add_bos else None
    tokens = tokenizer.encode(text, add_bos=bos is not None)
    num_chunks = len(tokens) // chunk_tokens
    if num_chunks == 0:
        raise InvalidOptionError(
            f"the text has {len(tokens)} tokens, less than a chunk of {chunk_tokens}; "
            "give a longer text or a smaller context"
        )
    chunks = np.array(tokens[: num_chunks * chunk_tokens], np.int32)
    chunks = chunks.reshape(num_chunks, chunk_tokens)
    if bos is not None:
        chunks[:, 0] = bos
    return chunks
