"""Answers questions about the text files of a folder, with their passages as sources.

Passages are embedded once, and kept beside the files until one of them changes. The nearest to a
question go into the prompt; with --rerank the model itself chooses among more of them, which needs
a larger one than the starter model. Needs edgellama alone:

    python examples/rag_folder.py FOLDER "How do bats find their way?"
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellama import Llama, TextOptions

SUFFIXES = (".md", ".rst", ".txt")
PASSAGE_CHARACTERS = 800
NUM_NEAREST, NUM_BEST = 8, 2
INDEX_NAME = ".edgellama-index.npz"
ANSWER: TextOptions = {
    "max_tokens": 200,
    "temperature": 0,
}
SYSTEM = "You answer questions by the given passages alone, in one or two sentences."


@dataclass(frozen=True)
class Passage:
    """Some neighbouring paragraphs of a file."""

    source: str
    text: str


def passages_of(folder: Path) -> list[Passage]:
    """All passages of the text files under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [
        Passage(str(path.relative_to(folder)), text)
        for path in files
        for text in _pieces(path.read_text("utf-8", errors="replace"))
    ]


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs joined to passages; a longer paragraph is cut at spaces."""
    piece = ""
    for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
        if piece and len(piece) + len(paragraph) > PASSAGE_CHARACTERS:
            yield piece
            piece = ""
        while len(paragraph) > PASSAGE_CHARACTERS:
            cut = paragraph.rfind(" ", 0, PASSAGE_CHARACTERS) + 1 or PASSAGE_CHARACTERS
            yield paragraph[:cut].strip()
            paragraph = paragraph[cut:]
        piece = f"{piece}\n\n{paragraph}".strip()
    if piece:
        yield piece


def vectors_of(llama: Llama, passages: Sequence[Passage], index: Path) -> npt.NDArray[np.float32]:
    """A vector of each passage: those of the index file, where passages and model are the same."""
    texts = [passage.text for passage in passages]
    name = f"{llama.metadata.get('general.name')} {llama.config}"
    key = hashlib.sha256("\0".join([name, *texts]).encode()).hexdigest()
    if index.exists():
        with np.load(index) as kept:
            if str(kept["key"]) == key:
                vectors: npt.NDArray[np.float32] = kept["vectors"]
                return vectors
    vectors = llama.embed(
        texts,
        truncate=True,
        progress=lambda done, total: print(
            f"\rreading passages: {done}/{total}", end="" if done < total else "\n", flush=True
        ),
    )
    np.savez(index, key=np.array(key), vectors=vectors)
    return vectors


def best_passages(
    llama: Llama,
    question: str,
    passages: Sequence[Passage],
    vectors: npt.NDArray[np.float32],
    reranks: bool,
) -> list[Passage]:
    """The passages nearest to a question by their vectors; of more, those that the model ranks."""
    scores = vectors @ llama.embed(question)[0]
    nearest = [passages[number] for number in np.argsort(-scores)[:NUM_NEAREST]]
    if not reranks:
        return nearest[:NUM_BEST]
    ranked = llama.rerank(
        question, [passage.text for passage in nearest], top_n=NUM_BEST, truncate=True
    )
    return [nearest[each.index] for each in ranked]


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer one question, or those that are typed."""
    parser = argparse.ArgumentParser(description="Ask the text files of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("question", nargs="?")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rerank", action="store_true")
    options = parser.parse_args(arguments)
    passages = passages_of(options.folder)
    if not passages:
        parser.error(f"{options.folder} has no text in files named *{', *'.join(SUFFIXES)}")
    with Llama(options.model) as llama:
        vectors = vectors_of(llama, passages, options.folder / INDEX_NAME)
        question = options.question or input("Question: ")
        while question:
            best = best_passages(llama, question, passages, vectors, options.rerank)
            context = "\n\n".join(f"[{passage.source}]\n{passage.text}" for passage in best)
            prompt = f"{context}\n\nQuestion: {question}"
            with llama.chat(SYSTEM) as chat:
                for chunk in chat.stream(prompt, **ANSWER):
                    print(chunk.text, end="", flush=True)
            print(f"\n(from {', '.join(dict.fromkeys(passage.source for passage in best))})")
            question = "" if options.question else input("Question: ")


if __name__ == "__main__":
    main()
