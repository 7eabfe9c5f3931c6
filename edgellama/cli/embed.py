"""``edgellama embed``: texts as vectors, into lines of JSON or a NumPy array."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from edgellama.cli.adapter_option import AdapterPath, adapter_option, load_adapters
from edgellama.cli.completion import MODEL, PATH
from edgellama.cli.options import engine_options, given, take_engine_arguments, type_option

if TYPE_CHECKING:
    from edgellama.generation.embedding import Embedding

ARRAY_SUFFIX, LINES_SUFFIX = ".npy", ".jsonl"
STANDARD_STREAM = "-"
EXACT_DIGITS = 9
"""So many decimal digits tell every f32 from its neighbours."""


@click.command("embed", short_help="Turn texts into vectors.")
@click.argument("model", type=MODEL)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    *("-f", "--file"),
    type=PATH,
    metavar="FILE",
    help='Take each line for a text, of FILE.jsonl its "text" (- is stdin).',
)
@click.option(
    *("-o", "--output"),
    type=PATH,
    metavar="FILE",
    default=STANDARD_STREAM,
    help="Write an array to FILE.npy, JSON lines to another FILE.  [default: stdout]",
)
@click.option(
    "--pooling",
    type=click.Choice(["mean", "last", "first"]),
    help="Which tokens make the vector.  [default: what the model says, else mean]",
)
@click.option(
    "--normalize/--raw", default=None, help="Make each vector's length 1.  [default: normalize]"
)
@click.option(
    "--truncate", is_flag=True, default=None, help="Drop the end of texts that are too long."
)
@type_option
@adapter_option()
@engine_options
def command(
    model: str,
    texts: tuple[str, ...],
    file: str | None,
    output: str,
    type_name: str | None,
    adapters: Sequence[AdapterPath],
    **options: Any,
) -> None:
    """Turn texts into vectors, several at once: for search, clusters and retrieval.

    Texts are arguments, or lines of FILE or of standard input; empty lines are passed over, and a
    line that begins with { may be an object with "text" and "id". A line of the output has "id"
    (left out, the text's number from 0), "num_tokens" and "embedding".

    \b
    Examples:
      edgellama embed smollm2 "Why is the sky blue?" "Rayleigh scattering"
      edgellama embed smollm2 -f sentences.txt -o vectors.npy
      jq -c '{id, text: .title}' books.jsonl | edgellama embed smollm2 > v.jsonl
    """
    from edgellama.cli.model_argument import find_runnable, open_model
    from edgellama.cli.terminal import step_progress
    from edgellama.quant.replaced_file import replaced_file

    lines = _Texts(texts, file)
    engine = take_engine_arguments(options)
    with ExitStack() as opened:
        llama = opened.enter_context(open_model(find_runnable(model, type_name), **engine))
        loaded = load_adapters(llama.load_adapter, adapters)
        found = llama.embed_each(lines.read(), adapters=loaded, **given(options))
        if output == STANDARD_STREAM:
            _write_lines(sys.stdout.buffer, found, lines)
            return
        target = opened.enter_context(replaced_file(Path(output)))
        report = opened.enter_context(step_progress("embedding texts"))
        seen = _reported(found, report, lines.total)
        if output.endswith(ARRAY_SUFFIX):
            _write_array(target, seen, llama.config.embedding_length)
        else:
            _write_lines(target, seen, lines)


class _Texts:
    """The texts of one run: where they come from, and what those that were read are known by."""

    def __init__(self, texts: Sequence[str], file: str | None) -> None:
        from edgellama.cli.prompt_text import comes_through_pipe

        if texts and file is not None:
            raise click.UsageError("texts and a file; give one of them")
        if not texts and file is None and not comes_through_pipe():
            raise click.UsageError("no texts; give some, -f FILE, or lines through a pipe")
        self._texts = texts
        self._file = None if file in (None, STANDARD_STREAM) else Path(str(file))
        self._ids: dict[int, object] = {}
        self.total = len(texts)
        if self._file is not None and self._file.is_file():
            with self._file.open("rb") as opened:
                self.total = sum(bool(line.strip()) for line in opened)

    def read(self) -> Iterator[str]:
        """Each text in turn."""
        if self._texts:
            yield from self._texts
            return
        with ExitStack() as opened:
            source: BinaryIO = sys.stdin.buffer
            if self._file is not None:
                source = opened.enter_context(self._file.open("rb"))
            numbered = ((n, line) for n, line in enumerate(source, start=1) if line.strip())
            for index, (number, line) in enumerate(numbered):
                text, self._ids[index] = self._text_and_id(line, number, index)
                yield text

    def id_of(self, index: int) -> object:
        """What a text's line of the output is known by; asked once for each."""
        return self._ids.pop(index, index)

    def _text_and_id(self, line: bytes, number: int, index: int) -> tuple[str, object]:
        name = "standard input" if self._file is None else str(self._file)
        must_be_object = self._file is not None and self._file.suffix == LINES_SUFFIX
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise click.ClickException(f"{name}, line {number} is not UTF-8: {error}") from error
        content: object = None
        if must_be_object or text.startswith("{"):
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                content = None
        if isinstance(content, dict) and isinstance(content.get("text"), str):
            return content["text"], content.get("id", index)
        if must_be_object:
            raise click.ClickException(
                f'{name}, line {number} is no JSON object with "text": {text[:80]!r}'
            )
        return text, index


def _reported(
    found: Iterable[Embedding], report: Callable[[int, int], None], total: int
) -> Iterator[Embedding]:
    """The same, and how far they have come."""
    for done, embedding in enumerate(found, start=1):
        yield embedding
        report(done, total)


def _write_lines(target: BinaryIO, found: Iterable[Embedding], lines: _Texts) -> None:
    for index, embedding in enumerate(found):
        line = {
            "id": lines.id_of(index),
            "num_tokens": embedding.num_tokens,
            **({"num_dropped": embedding.num_dropped} if embedding.num_dropped else {}),
            "embedding": [float(f"{number:.{EXACT_DIGITS}g}") for number in embedding.vector],
        }
        target.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        target.flush()


def _write_array(target: BinaryIO, found: Iterable[Embedding], width: int) -> None:
    import numpy as np

    rows = [embedding.vector for embedding in found]
    np.save(target, np.stack(rows) if rows else np.empty((0, width), np.float32))
