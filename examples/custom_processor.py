"""Writes texts without a letter of the alphabet, by a logits processor in NumPy.

    python examples/custom_processor.py --without e "The sun is"

A processor is called before every choice with the logits of all tokens and the tokens so far. This
one forbids the tokens that have the letter; sampling then chooses among the others as always.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgellama import Llama, Tokenizer


class Lipogram:
    """Forbids tokens whose text has one of some letters."""

    def __init__(self, tokenizer: Tokenizer, letters: str) -> None:
        wanted = set(letters.lower())
        texts = (tokenizer.token_text(token) for token in range(tokenizer.vocab_size))
        self._forbidden = np.array([bool(wanted & set(text.lower())) for text in texts])
        # The special tokens that end a text are spelled with letters, too.
        self._forbidden[list(tokenizer.special.end_of_generation)] = False

    def __call__(self, logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> None:
        """Change the logits in place."""
        logits[self._forbidden] = -np.inf


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the text as it comes."""
    parser = argparse.ArgumentParser(description="Write without a letter.")
    parser.add_argument("prompt", nargs="?", default="The sun is")
    parser.add_argument("--without", default="e", metavar="LETTERS")
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args(arguments)
    with Llama(options.model, context_length=512) as llama:
        processor = Lipogram(llama.tokenizer, options.without)
        print(options.prompt, end="")
        with llama.stream(
            options.prompt, processors=[processor], max_tokens=60, repeat_penalty=1.1, seed=1
        ) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
