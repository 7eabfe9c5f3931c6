"""Writes tests/data/tokenizer_golden.npz: the ids that the reference libraries give.

Run in ``tests``, with the ``test`` extra installed:
``python -m reference.make_tokenizer_golden``. Each case is one array of ids and one of
the ends of the texts in it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgellama.models import well_known
from edgellama.models.pulling import pull
from edgellama.quant.gguf.file import GGUFFile
from reference.tokenizer_references import (
    Encode,
    hard_text,
    hugging_face_ids,
    sentencepiece_ids,
    tiktoken_ids,
)
from reference.vocabularies import (
    LLAMA3_CONTROL,
    LLAMA3_RANKS,
    MISTRAL_V1,
    fetch,
    llama3_ranks,
)

GOLDEN = Path(__file__).parent.parent / "data" / "tokenizer_golden.npz"


def references() -> dict[str, Encode]:
    """Case name to reference; ``-special`` cases parse control tokens."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(fetch(MISTRAL_V1)))
    ranks = llama3_ranks(fetch(LLAMA3_RANKS))
    cases: dict[str, Encode] = {"mistral-v1": sentencepiece_ids(processor)}
    for suffix, special in (("", False), ("-special", True)):
        cases[f"llama3{suffix}"] = tiktoken_ids(ranks, LLAMA3_CONTROL, special=special)
    with GGUFFile(pull(well_known.STARTER_MODEL)) as file:
        for pattern in ("smollm", "gpt-2", "default"):
            metadata: dict[str, Any] = {**file.metadata, "tokenizer.ggml.pre": pattern}
            cases[f"smollm2-{pattern}"] = hugging_face_ids(metadata)
            cases[f"smollm2-{pattern}-special"] = hugging_face_ids(metadata, special=True)
    return cases


def main() -> None:
    """Write the file and say how large it is."""
    arrays = {}
    for name, encode in references().items():
        ids = [encode(text) for text in hard_text()]
        arrays[name] = np.array([token for row in ids for token in row], np.int32)
        arrays[f"{name}-ends"] = np.cumsum([len(row) for row in ids], dtype=np.int32)
    np.savez_compressed(GOLDEN, **arrays)
    sys.stderr.write(f"{GOLDEN}: {len(arrays) // 2} cases, {GOLDEN.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
