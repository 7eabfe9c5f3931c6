"""Compiles kernels in a process of its own and writes the objects to a folder.

The parent gives the tier and the folder, and one kernel's name after another on standard input; a
line on standard output tells of each that is finished. Also callable in-process, for applications
frozen without a Python.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgellama.kernels_cpu.machine.cpu import compilable_tier
from edgellama.kernels_cpu.machine.user_cache import storage_error
from edgellama.kernels_cpu.signatures import kernels_by_name
from edgellama.quant.digests import blake2b

COLLECTION_THRESHOLDS = (200_000, 1_000, 1_000)
"""A compiler makes large trees that live long: walking them more often finds nothing."""
DIGEST_BYTES = 32
LOW_PRIORITY = "low-priority"
"""What a worker is told that must not slow down anybody."""
LOWEST = 19
CompileInto = Callable[[Path, str, Iterable[str], Callable[[str], None]], None]
"""What compiles kernels of these names for a tier of this name into a folder, as ``compile_into``
does."""


def compile_into(
    folder: Path, tier_name: str, names: Iterable[str], done: Callable[[str], None]
) -> None:
    """Compile ``names`` for a tier and write ``folder/NAME.o``; ``done`` hears of each."""
    from edgellama.kernels_cpu.compiling import jit

    jit.use_tier(compilable_tier(tier_name))
    for name in names:
        write_checked(folder / f"{name}.o", jit.compile_kernel(kernels_by_name()[name]))
        done(name)


def write_checked(path: Path, content: bytes) -> None:
    """Write atomically, behind a digest; CacheError where that cannot be done."""
    import tempfile

    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(blake2b(content, digest_size=DIGEST_BYTES).digest() + content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise storage_error(path, error) from error


def read_checked(path: Path) -> bytes | None:
    """What ``write_checked`` wrote, or None where it is absent or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
    return content if blake2b(content, digest_size=DIGEST_BYTES).digest() == digest else None


def main(arguments: Sequence[str], compile_all: CompileInto = compile_into) -> None:
    """Entry of the worker process: tier, folder, and perhaps LOW_PRIORITY."""
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    tier_name, folder, *options = arguments
    if LOW_PRIORITY in options and hasattr(os, "nice"):
        os.nice(LOWEST)
    names = (line.strip() for line in sys.stdin)
    compile_all(Path(folder), tier_name, names, lambda name: print(name, flush=True))


if __name__ == "__main__":
    main(sys.argv[1:])
