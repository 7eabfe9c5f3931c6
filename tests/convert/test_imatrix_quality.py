"""What an importance matrix of our engine is worth: a real model, quantized with and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import DATA

from edgellama.convert import convert
from edgellama.convert.imatrix import write_imatrix
from edgellama.engine.engine import Engine
from edgellama.measure.importance import measure_importance
from edgellama.measure.perplexity import measure_perplexity
from edgellama.measure.text_chunks import cut_text
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import load_tokenizer

TEXT = (DATA / "english.txt").read_text("utf-8")
NUM_READ = 14_000
"""Characters that importance is measured on; the rest is scored."""
CHUNK_TOKENS = 256


def perplexity_of_the_rest(path: Path) -> float:
    """Perplexity on the part of the text that importance was not measured on."""
    with GGUFFile(path) as file, Engine(file) as engine:
        chunks = cut_text(load_tokenizer(file.metadata), TEXT[NUM_READ:], CHUNK_TOKENS)
        return measure_perplexity(engine, chunks).value


@pytest.mark.slow
def test_it_makes_four_bits_better(smollm2_path: Path, tmp_path: Path) -> None:
    """On text that was not measured, q4_0 with importance is better by a twentieth."""
    importance = measure_importance(smollm2_path, TEXT[:NUM_READ], chunk_tokens=CHUNK_TOKENS)
    imatrix = tmp_path / "imatrix.gguf"
    write_imatrix(
        imatrix,
        importance.sums,
        num_tokens=importance.num_tokens,
        chunk_tokens=importance.chunk_tokens,
        datasets=["english.txt"],
    )
    convert(smollm2_path, tmp_path / "without.gguf", type="q4_0")
    convert(smollm2_path, tmp_path / "with.gguf", type="q4_0", imatrix=imatrix)
    without, weighted = (
        perplexity_of_the_rest(tmp_path / name) for name in ("without.gguf", "with.gguf")
    )
    assert weighted < 0.95 * without
