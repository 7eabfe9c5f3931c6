"""The whole conversion: open, plan, quantize and write each tensor, check, rename.

Each step is in a module of its own. This module has their order, and decides what becomes of
unfinished files when one of them fails.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from edgellama.convert.options import ConversionOptions
from edgellama.convert.output.chunks import Chunk
from edgellama.convert.output.journal import Journal
from edgellama.convert.output.own_file import check_own_file
from edgellama.convert.output.report import ConversionReport, make_report
from edgellama.convert.output.row_work import ChunkResult, RowWorker
from edgellama.convert.output.tensor_sums import Report, sum_tensors
from edgellama.convert.output.verify import verify_files, written_records
from edgellama.convert.output.writer import OutputFiles, remove_partial_files, rename_files
from edgellama.convert.planning.conversion_plan import ConversionPlan, PlannedTensor
from edgellama.convert.planning.file_names import journal_path, partial_path
from edgellama.convert.planning.planner import (
    check_absent,
    check_output,
    check_report,
    check_room,
    plan_conversion,
)
from edgellama.convert.sources.opening import open_checkpoint
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes
from edgellama.quant.errors import ConversionError, EdgellamaError, ResumeError
from edgellama.quant.ways import Way

READ_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConversionProgress:
    """How far a conversion has come; bytes are those of the source's tensors.

    ``stage``: "checking" what an earlier run has finished, "converting" or "verifying", each of
    which counts from 0. ``tensor``: the one at hand.
    """

    stage: str
    tensor: str
    bytes_done: int
    bytes_total: int


Progress = Callable[[ConversionProgress], None]
KernelProgress = Callable[[int, int], None]


def run_conversion(
    source: Path,
    options: ConversionOptions,
    progress: Progress | None = None,
    kernel_progress: KernelProgress | None = None,
) -> ConversionReport:
    """Convert ``source``; ``convert`` tells what may be raised."""
    started = perf_counter()
    with open_checkpoint(source) as checkpoint:
        plan = plan_conversion(checkpoint, options)
        check_output(plan)
        check_report(plan, options.report, overwrite=options.overwrite)
        if not (options.resume and journal_path(plan.output).exists()):
            check_absent(plan, options.overwrite)
        worker = RowWorker(plan.tensors)
        worker.prepare(kernel_progress)
        conversion = _Conversion(plan, options, worker, progress)
        with (
            closing(Journal(plan.output, fingerprint(plan), resume=options.resume)) as journal,
            _system_errors_explained(plan, journal),
        ):
            num_resumed = conversion.run(journal)
            report = make_report(
                plan,
                journal.records,
                seconds=perf_counter() - started,
                peak_memory_bytes=peak_memory_bytes(),
                num_resumed_tensors=num_resumed,
                is_verified=journal.is_verified,
            )
    if options.report is not None:
        report.write(options.report)
    return report


def fingerprint(plan: ConversionPlan) -> str:
    """A digest of all that decides the bytes of the result but the weights themselves."""
    digest = blake2b(version("edgellama").encode(), digest_size=16)
    for file in plan.files:
        digest.update(os.fsencode(file.path.name) + b"\0" + file.header)
    for tensor in plan.tensors:
        digest.update(b"" if tensor.importance is None else tensor.importance.tobytes())
    for path, scale in plan.adapters:
        digest.update(repr(scale).encode())
        with path.open("rb") as adapter:
            while block := adapter.read(READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


class _Conversion:
    """The steps from an open journal to renamed files."""

    def __init__(
        self,
        plan: ConversionPlan,
        options: ConversionOptions,
        worker: RowWorker,
        progress: Progress | None,
    ) -> None:
        self._plan = plan
        self._options = options
        self._worker = worker
        self._progress = progress

    def run(self, journal: Journal) -> int:
        """Do what the journal does not have yet; how many tensors an earlier run had done."""
        if journal.is_complete:
            num_resumed = len(journal.records)
        else:
            self._check_place(journal)
            with closing(OutputFiles(self._plan, keep=journal.was_started)) as files:
                num_resumed = self._check_finished(journal)
                with _removed_on_error(self._plan, journal, files):
                    self._write_tensors(files, journal)
                    if self._options.verify:
                        self._verify(journal)
                    journal.complete(is_verified=self._options.verify)
        rename_files(self._plan)
        journal.remove()
        return num_resumed

    def _check_place(self, journal: Journal) -> None:
        """ConversionError if there is no room, or a file that may not be replaced."""
        try:
            check_absent(self._plan, self._options.overwrite)
            check_room(self._plan)
            for file in self._plan.files:
                check_own_file(partial_path(file.path))
        except ConversionError:
            if not journal.was_started:
                journal.remove()
            raise

    def _check_finished(self, journal: Journal) -> int:
        """How many finished tensors still are what they were; later ones are done again."""
        finished = self._plan.tensors[: len(journal.records)]
        if not finished:
            return 0
        report = self._reporter("checking", finished)
        found = written_records(
            self._plan, finished, self._worker, self._options.num_threads, report
        )
        with closing(found):
            for number, (before, now) in enumerate(zip(list(journal.records), found, strict=True)):
                if before.source_checksum != now.source_checksum:
                    raise ResumeError(
                        f"{self._plan.source}: tensor {before.name} has changed since the "
                        "conversion was begun"
                    )
                if before != now:
                    _log.warning(
                        "%s is damaged in the unfinished file; doing it again", before.name
                    )
                    journal.keep_first(number)
                    break
        return len(journal.records)

    def _write_tensors(self, files: OutputFiles, journal: Journal) -> None:
        tensors = self._plan.tensors[len(journal.records) :]

        def convert(chunk: Chunk) -> ChunkResult:
            return self._worker.convert(chunk, files.write)

        report = self._reporter("converting", tensors)
        with closing(sum_tensors(convert, tensors, self._options.num_threads, report)) as finished:
            for sums in finished:
                sums.check(self._plan.source)
                journal.add(sums.record())

    def _verify(self, journal: Journal) -> None:
        report = self._reporter("verifying", self._plan.tensors)
        threads = self._options.num_threads
        verify_files(self._plan, journal.records, self._worker, threads, report)

    def _reporter(self, stage: str, tensors: tuple[PlannedTensor, ...]) -> Report:
        total = sum(tensor.source.num_bytes for tensor in tensors)
        done = 0

        def report(tensor: PlannedTensor, num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            if self._progress is not None:
                self._progress(ConversionProgress(stage, tensor.name, done, total))

        return report


@contextmanager
def _system_errors_explained(plan: ConversionPlan, journal: Journal) -> Iterator[None]:
    """ConversionError for a full disk and its like, after which a conversion can be resumed."""
    try:
        yield
    except OSError as error:
        if isinstance(error, EdgellamaError):
            raise
        raise ConversionError(
            f"{plan.output}: {error.strerror or error}; "
            f"{len(journal.records)} of {len(plan.tensors)} tensors are kept",
            way=Way("call it again with resume=True to go on", "go on with --resume"),
        ) from error


@contextmanager
def _removed_on_error(plan: ConversionPlan, journal: Journal, files: OutputFiles) -> Iterator[None]:
    """What was stopped from outside is kept; what is wrong in itself is removed."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, OSError):
        raise
    except BaseException:
        files.close()
        remove_partial_files(plan)
        journal.remove()
        raise
