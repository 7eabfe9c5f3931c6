"""Writes tests/data/tekken_golden.json: the ids that Mistral's own program gives the hard text.

Run in ``tests`` with mistral_common installed: ``python -m reference.make_tekken_golden``.
"""

from __future__ import annotations

import json
from pathlib import Path

from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from reference.tokenizer_references import hard_text, visible
from reference.vocabularies import TEKKEN, fetch

GOLDEN = Path(__file__).parent.parent / "data" / "tekken_golden.json"


def main() -> None:
    """A list of ids for each text."""
    tokenizer = Tekkenizer.from_file(fetch(TEKKEN))
    ids = [tokenizer.encode(visible(text), bos=False, eos=False) for text in hard_text()]
    GOLDEN.write_text(json.dumps(ids, separators=(",", ":")) + "\n", "ascii")


if __name__ == "__main__":
    main()
