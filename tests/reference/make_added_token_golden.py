"""Writes tests/data/added_token_golden.npz: the ids that transformers gives the cases' texts.

Run in ``tests``, with transformers 5, sentencepiece and protobuf installed:
``python -m reference.make_added_token_golden``. A BOS that a text brings itself is not doubled.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from reference.added_token_cases import CASES, NUM_ROWS, TEXTS, Case, write

GOLDEN = Path(__file__).parent.parent / "data" / "added_token_golden.npz"


def reference_ids(case: Case) -> list[list[int]]:
    """What AutoTokenizer makes of each text."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(case, folder)
        config = {"model_type": "llama", "vocab_size": NUM_ROWS}
        (folder / "config.json").write_text(json.dumps(config), "ascii")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        bos = tokenizer.bos_token_id
        rows = [list(tokenizer(text)["input_ids"]) for text in TEXTS]
    return [row[1:] if row[:2] == [bos, bos] else row for row in rows]


def main() -> None:
    """Write the file and say how large it is."""
    rows = {name: reference_ids(case) for name, case in CASES.items()}
    np.savez_compressed(
        GOLDEN,
        names=np.array(list(rows)),
        lengths=np.array([[len(row) for row in ids] for ids in rows.values()], np.uint8),
        ids=np.array([token for ids in rows.values() for row in ids for token in row], np.int16),
    )
    sys.stderr.write(f"{GOLDEN}: {len(CASES)} cases, {GOLDEN.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
