"""Compiled kernels on disk and in memory: what is missing is compiled, the rest only loaded.

The folder's name is a hash of everything that the code depends on (all kernel sources, numba,
llvmlite, the tier), so stale code cannot run. Kernels that an application ships come first.
Numba and LLVM are started, in worker processes, only when something is missing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from edgellama.kernels_cpu.compiling.code_folder import FOLDER_NAME, read_or_make
from edgellama.kernels_cpu.compiling.code_loader import LoadedCode
from edgellama.kernels_cpu.compiling.compile_worker import read_checked
from edgellama.kernels_cpu.compiling.elf_object import ElfObject
from edgellama.kernels_cpu.compiling.exported_kernels import (
    ExportedKernels,
    system_name,
)
from edgellama.kernels_cpu.compiling.source_hash import source_hash
from edgellama.kernels_cpu.machine.cpu import (
    TIER_VARIABLE,
    Tier,
    available_tiers,
    select_tier,
)
from edgellama.kernels_cpu.machine.user_cache import cache_folders, cache_root, folder_to_fill
from edgellama.quant.digests import blake2b
from edgellama.quant.errors import KernelError
from edgellama.quant.progress import Progress

logger = logging.getLogger(__name__)

COMPILERS = ("llvmlite", "numba")
"""Packages whose versions decide what the code is."""
KEY_BYTES = 8
MAX_ATTEMPTS = 3
"""How often kernels that can wait are begun to be compiled in a process."""


class CompiledKernels:
    """Compiled kernels of one tier; the machine code lives as long as this object."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.code_bytes = 0
        self.num_compiled = 0
        self._exported = ExportedKernels.find()
        self._loaded: list[LoadedCode] = []
        self._addresses: dict[str, int] = {}
        self._compiling: threading.Thread | None = None
        self._num_attempts = 0

    def ensure(
        self,
        names: Iterable[str],
        progress: Progress | None = None,
        companions: Iterable[str] = (),
        later: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Load the kernels called ``names``, compiling those that the cache lacks.

        If any must be compiled, ``progress`` hears of it, and those of ``companions`` that the
        cache lacks are compiled in the background afterwards. Those that ``later`` tells are
        before; together with ``names`` where nothing is compiled in the background. Raises
        KernelError on failure.
        """
        if self._exported or getattr(sys, "frozen", False):
            names, later = {*names, *later()}, tuple
        wanted = sorted(set(names) - self._addresses.keys())
        if not wanted:
            return

        started, compiled_before = time.perf_counter(), self.num_compiled

        def count(done: int, total: int) -> None:
            self.num_compiled = compiled_before + done
            if progress:
                progress(done, total)

        objects = self._exported_objects(wanted)
        num_exported = len(objects)
        missing = [name for name in wanted if name not in objects]
        if missing:
            objects |= read_or_compile(missing, self.tier, count, self._key)
        code = LoadedCode(objects.values())
        self._loaded.append(code)
        self.code_bytes += code.num_bytes
        num_compiled = self.num_compiled - compiled_before
        logger.debug(
            "%d kernels for %s, %d of them shipped; %d compiled, the rest from the cache; %.2f s",
            *(len(wanted), self.tier.name, num_exported, num_compiled),
            time.perf_counter() - started,
        )
        self._addresses |= code.addresses
        # Who ships kernels does not want others compiled.
        if num_compiled and not self._exported:
            self._compile_later([*later(), *companions])

    def are_coming(self, names: Collection[str]) -> bool:
        """Whether these kernels are not there yet: the first who asks has them compiled.

        A worker that ends before they are there is followed by another one, a few times.
        """
        if self.are_there(names):
            return False
        is_alive = self._compiling is not None and self._compiling.is_alive()
        if not is_alive and self._num_attempts < MAX_ATTEMPTS:
            self._compile_later(names)
        return True

    def are_there(self, names: Iterable[str]) -> bool:
        """Whether all of these kernels are loaded, or in the cache; nothing is read of them."""
        missing = [name for name in names if name not in self._addresses]
        if not missing or self._exported:
            return True
        places = cache_folders(f"{FOLDER_NAME}/{self._key}")
        return all(any((place / f"{name}.o").exists() for place in places) for name in missing)

    @cached_property
    def _key(self) -> str:
        return code_key(self.tier)

    def address(self, name: str) -> int:
        """Address of ``void(int64 args, int64 thread, int64 job)``."""
        return self._addresses[name]

    def _compile_later(self, names: Iterable[str]) -> None:
        """Compile in the background what the cache lacks of them."""
        wanted = [name for name in names if name not in self._addresses]
        if wanted:
            from edgellama.kernels_cpu.compiling.background import compile_in_background

            folder = folder_to_fill(f"{FOLDER_NAME}/{self._key}")
            self._num_attempts += 1
            self._compiling = compile_in_background(wanted, self.tier, folder)

    def _exported_objects(self, names: Sequence[str]) -> dict[str, ElfObject]:
        """Those kernels that the application ships."""
        if self._exported is None:
            return {}
        contents = {name: self._exported.read(self.tier.name, name) for name in names}
        return {name: found for name, found in contents.items() if found is not None}


def choose_tier(name: str | None = None) -> Tier:
    """The tier called ``name``, or that EDGELLAMA_TIER names, or the fastest that is shipped.

    Where nothing is shipped for this CPU it is the fastest of all. Raises KernelError.
    """
    exported = None if name or os.environ.get(TIER_VARIABLE) else ExportedKernels.find()
    tiers = available_tiers() if exported else ()
    shipped = [tier for tier in tiers if exported and tier.name in exported.digests]
    return shipped[0] if shipped else select_tier(name)


def read_or_compile(
    names: Sequence[str],
    tier: Tier,
    progress: Progress | None = None,
    key: str = "",
) -> Mapping[str, ElfObject]:
    """Object files by name, from the user's cache, where it is put first if need be.

    The tier need not be one that this CPU can run. ``progress`` as for
    ``CompiledKernels.ensure``; ``key``: the tier's ``code_key``, if known. Raises KernelError and
    CacheError.
    """

    def compile_missing(missing: Sequence[str], folder: Path, report: Progress) -> None:
        from edgellama.kernels_cpu.compiling.compile_pool import compile_kernels

        compile_kernels(missing, tier, folder, report)

    key = key or (code_key(tier) if names else "")
    return read_or_make(names, key, _read_object, compile_missing, progress)


def _read_object(folder: Path, name: str) -> ElfObject | None:
    content = read_checked(folder / f"{name}.o")
    if content is not None:
        with contextlib.suppress(KernelError):
            return ElfObject.parse(content, name)
    return None


def has_compiled(tier: Tier) -> bool:
    """Whether the cache holds any code for this tier yet."""
    places = cache_folders(f"{FOLDER_NAME}/{code_key(tier)}")
    return any(any(place.glob("*.o")) for place in places)


def cache_folder(tier: Tier) -> Path:
    """Where this tier's code lies in the user's cache."""
    return cache_root() / FOLDER_NAME / code_key(tier)


def code_key(tier: Tier) -> str:
    """The name of the folder with this tier's code for the present sources and libraries.

    Code of a tier is the same whatever CPU it was compiled on.
    """
    sources = source_hash()
    if sources is None:
        raise KernelError(
            "this application was frozen without edgellama's sources and their hash; bundle "
            "edgellama/kernels_cpu/source_hash.txt (PyInstaller does it by itself)"
        )
    return key_of(tier, sources, system_name())


def key_of(tier: Tier, *parts: str) -> str:
    """The name of a folder with a tier's code that depends on ``parts`` and on the compilers."""
    versions = [_package_version(name) for name in COMPILERS]
    key = blake2b(chr(0).join([*parts, *versions, tier.name]).encode(), digest_size=KEY_BYTES)
    return f"{tier.name}-{key.hexdigest()}"


def _package_version(name: str) -> str:
    """What a package says of its version, without the cost of importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return "absent"
    try:
        return (Path(spec.origin).parent / "_version.py").read_text(encoding="utf-8")
    except OSError:  # frozen
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(name)
        except PackageNotFoundError:
            return "unknown"
