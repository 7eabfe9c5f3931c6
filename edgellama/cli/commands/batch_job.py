"""Which lines of a batch run, and what becomes of their texts and errors.

``batch_files`` reads and writes lines, ``generation.batches.batch`` generates the texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgellama.cli.output.batch_progress import Counts
from edgellama.generation.batches.batch_lines import error_line, prompt_of, text_line
from edgellama.quant.error_text import shown

if TYPE_CHECKING:
    from edgellama.cli.commands.batch_files import BatchInput, BatchOutput
    from edgellama.generation.argument_types import BatchPrompt
    from edgellama.generation.results import Generation
    from edgellama.quant.errors import EdgellamaError


class Job:
    """Between the files of a batch and the generator of its texts; used by one thread."""

    def __init__(
        self, lines: BatchInput, output: BatchOutput, *, is_chat: bool, system: str | None
    ) -> None:
        self.counts = Counts()
        self._lines = lines
        self._output = output
        self._num_before = len(output.done)
        self._is_chat = is_chat
        self._system = system
        self._ids: dict[int, object] = {}
        self._num_given = 0

    def pending(self) -> Iterator[tuple[object, dict[str, Any]] | None]:
        """Ids and contents of lines that are not done; of two with one id the first counts."""
        for line in self._lines.lines():
            if line is None:
                yield None
            elif not self._output.done.add(line.id):
                self._skip()
            elif line.content is None:
                self.write(error_line(line.id, line.error))
            else:
                yield line.id, line.content

    def _skip(self) -> None:
        """Count a line whose id was there: as often as the output had one, it was done before."""
        if self.counts.num_before < self._num_before:
            self.counts.num_before += 1
        else:
            self.counts.num_repeated += 1

    def prompts(self) -> Iterator[BatchPrompt | None]:
        """The prompts of the lines."""
        for line in self.pending():
            if line is None:
                yield None
                continue
            self._ids[self._num_given], content = line
            self._num_given += 1
            yield prompt_of(content, is_chat=self._is_chat, system=self._system)

    def finish(self, result: Generation) -> None:
        """Write a text."""
        self.write(text_line(self._ids.pop(result.index), result))

    def refuse(self, index: int, error: EdgellamaError) -> None:
        """Write what is wrong with a prompt."""
        self.write(error_line(self._ids.pop(index), error))

    def write(self, line: dict[str, Any]) -> None:
        """Write a text, or what is wrong, and count it."""
        self._output.write(line)
        if "error" in line:
            self.counts.num_errors += 1
            named = f"id {shown(line['id'])}: {line['error']}"
            self.counts.first_error = self.counts.first_error or named
        else:
            self.counts.num_texts += 1
            self.counts.num_tokens += line["usage"]["completion_tokens"]
