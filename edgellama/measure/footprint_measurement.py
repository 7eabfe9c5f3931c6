"""Measures the footprint of a model: it runs in a child process that looks at its own pages.

The child does what a long chat does: it encodes text, fills the context by prefill, decodes, and
uses every token of the vocabulary. The result is exact on Linux; elsewhere only the peak is known.
"""

from __future__ import annotations

import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellama.engine.card.choice import ON_CPU, AttentionChoice
from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes
from edgellama.measure.child_process import run_in_child, serve
from edgellama.quant.progress import Progress
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.engine.pages.kv_cache import KVCache
    from edgellama.sampling.sampler import Sampler

NUM_DECODED = 8
RARE_TEXT = "zqxwvj Zwölfzylinder 漢字"
"""Text that no vocabulary has as whole words, so that merges are read."""
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)")
_PRESENT_OR_SWAPPED = 3 << 62


@dataclass(frozen=True)
class Measurement:
    """Bytes that a process held; parts are None if the system does not tell."""

    peak_bytes: int
    pss_bytes: int | None
    weights_bytes: int | None
    libraries_bytes: int | None
    kv_bytes: int | None
    num_tokens: int
    card_bytes: int = 0


def measure(
    path: Path,
    *,
    context_length: int | None,
    kv_type: str,
    num_threads: int | None = None,
    draft: Path | None = None,
    adapters: Sequence[tuple[str, float]] = (),
    attention: AttentionChoice = ON_CPU,
    progress: Progress | None = None,
) -> Measurement:
    """Run the model in ``path`` until its context is full; ``progress`` hears of tokens.

    ``context_length`` None is ``footprint.usual_context_length``. ``draft`` is a draft model that
    reads the same, ``adapters`` are files with scales that the text is read with; of the bytes of
    both only those of the whole process tell.

    Raises what loading and running raise.
    """
    request = {
        "path": str(path),
        "context_length": context_length,
        "kv_type": kv_type,
        "num_threads": num_threads,
        "draft": None if draft is None else str(draft),
        "adapters": list(adapters),
        "attention": asdict(attention),
    }
    return Measurement(**run_in_child(__name__, request, progress))


def _run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from edgellama.measure.footprint import usual_context_length
    from edgellama.sampling.options import SamplingOptions
    from edgellama.sampling.sampler import Sampler

    sampler = Sampler(SamplingOptions(seed=0))
    with ExitStack() as held:
        attention = AttentionChoice(**request["attention"])
        model = held.enter_context(_Running(request["path"], request["num_threads"], attention))
        length = request["context_length"] or usual_context_length(model.engine.config)
        cache = model.fill(length, request["kv_type"], sampler, progress, request["adapters"])
        files: list[str | os.PathLike[str]] = [*model.file.files]
        files += [path for path, _ in request["adapters"]]
        if request["draft"] is not None:
            draft = held.enter_context(_Running(request["draft"], request["num_threads"]))
            draft.fill(min(length, draft.engine.config.context_length), "f16", sampler, None)
            files += draft.file.files
        pages = [page.memory for page in cache.pages if page is not None]
        card = model.engine.card_use
        return _measured(model.file.files, files, pages, cache.length) | {
            "card_bytes": card.used_bytes if card else 0
        }


class _Running:
    """A model that does what a long chat does. A context manager."""

    def __init__(
        self, path: str, num_threads: int | None, attention: AttentionChoice = ON_CPU
    ) -> None:
        from edgellama.engine.engine import Engine
        from edgellama.quant.gguf.file import GGUFFile
        from edgellama.text.tokenizer import load_tokenizer

        self.file = GGUFFile(path)
        self.tokenizer = load_tokenizer(self.file.metadata, self.file.path)
        self.tokenizer.encode(RARE_TEXT)
        self.engine = Engine(self.file, num_threads=num_threads, attention=attention)

    def fill(
        self,
        length: int,
        kv_type: str,
        sampler: Sampler,
        progress: Progress | None,
        adapters: Sequence[tuple[str, float]] = (),
    ) -> KVCache:
        """A full cache of ``length`` tokens, most of them prefilled; all weights were read."""
        engine = self.engine
        vocab_size = engine.config.vocab_size
        shelf = engine.adapters
        loaded = shelf.adapter_set({shelf.load(path, path): scale for path, scale in adapters})
        cache = engine.new_cache(length, kv_type=kv_type, adapters=loaded)
        num_prefilled = max(1, cache.context_length - NUM_DECODED)
        step = max(1, vocab_size // num_prefilled)
        tokens = np.arange(num_prefilled, dtype=np.int32) * step % vocab_size
        logits = engine.forward(tokens, cache, progress=progress)
        while cache.length < cache.context_length:
            logits = engine.forward([sampler(logits[0], [])], cache)
        _touch(engine.weights.token_embd.data)
        return cache

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *error: object) -> None:
        self.engine.close()
        self.file.close()


def _measured(
    weights: Sequence[str | os.PathLike[str]],
    files: Sequence[str | os.PathLike[str]],
    memory: Sequence[npt.NDArray[np.uint8]],
    length: int,
) -> dict[str, Any]:
    """``files`` are no libraries; of them ``weights`` are the model's own."""
    result: dict[str, Any] = dict.fromkeys(
        ("pss_bytes", "weights_bytes", "libraries_bytes", "kv_bytes")
    )
    result |= {"num_tokens": length, "peak_bytes": peak_memory_bytes()}
    if sys.platform == "linux":
        resident, shares = _pages_by_file()
        models, own = ({os.path.realpath(file) for file in some} for some in (files, weights))
        result["weights_bytes"] = sum(size for name, size in resident.items() if name in own)
        result["libraries_bytes"] = sum(
            size for name, size in resident.items() if name.startswith("/") and name not in models
        )
        result["pss_bytes"] = shares
        result["kv_bytes"] = sum(map(_resident_bytes, memory))
    return result


def _touch(rows: npt.NDArray[np.uint8]) -> None:
    """Read a byte of every page, as a text with all tokens would."""
    np.add.reduce(rows.reshape(-1)[::4096], dtype=np.int64)


def _pages_by_file() -> tuple[Counter[str], int]:
    """Resident bytes by the file that they map, and this process's proportional share in all."""
    resident: Counter[str] = Counter()
    share, name = 0, ""
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        if found := _MAPPING.match(line):
            name = found[1]
        elif line.startswith("Rss:"):
            resident[name] += int(line.split()[1]) * 1024
        elif line.startswith("Pss:"):
            share += int(line.split()[1]) * 1024
    return resident, share


def _resident_bytes(memory: npt.NDArray[np.uint8]) -> int:
    """Bytes of the pages of an array that have been touched."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    first = int(memory.ctypes.data) // page_bytes
    last = -(-(int(memory.ctypes.data) + memory.nbytes) // page_bytes)
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(8 * first)
        entries = array("Q", pagemap.read(8 * (last - first)))
    return page_bytes * sum(1 for entry in entries if entry & _PRESENT_OR_SWAPPED)


if __name__ == "__main__":
    serve(_run)
