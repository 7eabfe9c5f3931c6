"""Summarises many text files at once, with progress; what is done is not done again.

    python examples/batch_summaries.py SUMMARIES.jsonl FILE...

A line of the output has "file" and "summary". Files that are longer than the context are cut into
parts; their summaries are summarised in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgellama import Llama, PromptOptions

WISH = "Summarise this text in two sentences:\n\n"
MAX_TOKENS = 100
OPTIONS: PromptOptions = {
    "max_tokens": MAX_TOKENS,
    "temperature": 0,
}
ROOM_FOR_WISH = 64
"""Tokens of the chat format and of the wish."""


def parts_of(llama: Llama, text: str) -> list[str]:
    """The text in parts that fit the context together with their summary."""
    tokens = llama.tokenizer.encode(text, add_bos=False)
    size = llama.context_length - MAX_TOKENS - ROOM_FOR_WISH
    return [
        llama.tokenizer.decode(tokens[start : start + size])
        for start in range(0, max(1, len(tokens)), size)
    ]


def summaries(llama: Llama, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The number of each text and its summary, as they are done; all are computed together."""
    prompts = ({"messages": [{"role": "user", "content": WISH + text}]} for text in texts)
    for result in llama.generate_batch(prompts, **OPTIONS):
        yield result.index, result.text.strip()


def summarise(llama: Llama, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each file and its summary, as they are done."""
    parts = [parts_of(llama, path.read_text("utf-8", errors="replace")) for path in files]
    owners = [number for number, own in enumerate(parts) for _ in own]
    firsts = [owners.index(number) for number in range(len(files))]
    found: dict[int, dict[int, str]] = {number: {} for number in range(len(files))}
    for index, summary in summaries(llama, [part for own in parts for part in own]):
        number = owners[index]
        found[number][index - firsts[number]] = summary
        if len(found[number]) < len(parts[number]):
            continue
        joined = " ".join(text for _, text in sorted(found.pop(number).items()))
        if len(parts[number]) > 1:
            ((_, joined),) = summaries(llama, [parts_of(llama, joined)[0]])
        yield files[number], joined


def main(arguments: Sequence[str] | None = None) -> None:
    """Summarise the files that the output does not have."""
    parser = argparse.ArgumentParser(description="Summarise text files.")
    parser.add_argument("output", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--context", type=int, help="tokens of a part and its summary")
    options = parser.parse_args(arguments)
    done = set()
    if options.output.exists():
        lines = options.output.read_text("utf-8").splitlines()
        done = {json.loads(line)["file"] for line in lines}
    files = [path for path in options.files if str(path) not in done]
    with (
        Llama(options.model, context_length=options.context) as llama,
        options.output.open("a", encoding="utf-8") as output,
    ):
        for number, (path, summary) in enumerate(summarise(llama, files), start=1):
            output.write(json.dumps({"file": str(path), "summary": summary}) + "\n")
            output.flush()
            print(f"{number}/{len(files)} {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
