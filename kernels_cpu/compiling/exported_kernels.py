"""Compiled kernels that an application ships, so that nobody compiles on the user's machine.

A folder with a manifest and one object file a kernel, for one tier or several. What does not fit
these sources and this system, or is not what the manifest says, is refused before any of it runs.
"""

from __future__ import annotations

import os
import platform
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from edgellama.kernels_cpu.compiling.elf_object import ElfObject
from edgellama.kernels_cpu.compiling.source_hash import SOURCE_FOLDER, source_hash
from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, KernelError
from edgellama.quant.records import dataclass

EXPORT_VARIABLE = "EDGELLAMA_KERNELS"
EXPORT_NAME = "edgellama-kernels"
"""The folder that a frozen application finds beside its executable, or in its bundle."""
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
FORMAT_NAME, FORMAT_VERSION = "edgellama kernels", 1
REMEDY = "make the folder anew: edgellama warmup --export FOLDER --tiers all"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class ExportedKernels:
    """A folder of compiled kernels whose manifest fits; ``digests`` are by tier and kernel."""

    folder: Path
    digests: Mapping[str, Mapping[str, str]]

    @classmethod
    def find(cls) -> ExportedKernels | None:
        """Those that EDGELLAMA_KERNELS names, or that a frozen application carries; else None.

        Raises KernelError for a folder that is there and must be refused.
        """
        named = os.environ.get(EXPORT_VARIABLE)
        if named:
            return cls.open(Path(named))
        places = [Path(sys.executable).parent, SOURCE_FOLDER.parent.parent]
        for place in places if getattr(sys, "frozen", False) else ():
            if (place / EXPORT_NAME / MANIFEST_NAME).is_file():
                return cls.open(place / EXPORT_NAME)
        return None

    @classmethod
    def open(cls, folder: Path) -> ExportedKernels:
        """The kernels in ``folder``; KernelError unless they are of these sources and system."""
        path = folder / MANIFEST_NAME
        _refuse_writable_by_all(folder, path)
        manifest = _read_manifest(path)
        expected = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "system": system_name(),
            "sources": source_hash(),
        }
        for key, value in expected.items():
            found = manifest.get(key)
            if found is None or found != value:
                raise KernelError(f"{path}: {key} is {shown(found)}, here {shown(value)}; {REMEDY}")
        tiers = manifest.get("tiers")
        if not isinstance(tiers, dict) or not all(isinstance(t, dict) for t in tiers.values()):
            raise KernelError(f"{path}: tiers are {shown(tiers)}; {REMEDY}")
        return cls(folder, tiers)

    def read(self, tier: str, kernel: str) -> ElfObject | None:
        """A kernel's object, None if the folder has none; KernelError for a damaged file."""
        digest = self.digests.get(tier, {}).get(kernel)
        if digest is None:
            return None
        path = self.folder / tier / f"{kernel}.o"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise KernelError(f"{path}: cannot be read, {error}; {REMEDY}") from error
        if _sha256(content) != digest:
            raise KernelError(f"{path}: not the file that {MANIFEST_NAME} names; {REMEDY}")
        try:
            return ElfObject.parse(content, kernel)
        except KernelError as error:
            raise KernelError(f"{path}: {error}; {REMEDY}") from error


def write_exported(
    folder: Path, objects: Mapping[str, Mapping[str, bytes]], *, made_by: str
) -> None:
    """Write kernels, by tier and name, as a folder that appears once it is complete.

    An earlier export in its place is replaced. Raises InvalidOptionError for a folder with
    anything else in it, KernelError without a hash of the sources, OSError.
    """
    import json
    import shutil

    sources = source_hash()
    if sources is None:
        raise KernelError("the sources of the kernels are not here to be told apart")
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and any(folder.iterdir()):
        raise InvalidOptionError(
            f"{folder} holds other files; allowed: a new or empty folder, or an earlier export"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        for tier, contents in objects.items():
            (partial / tier).mkdir(parents=True)
            for name, content in contents.items():
                (partial / tier / f"{name}.o").write_bytes(content)
        manifest = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "made by": made_by,
            "system": system_name(),
            "sources": sources,
            "tiers": {
                tier: {name: _sha256(content) for name, content in code.items()}
                for tier, code in objects.items()
            },
        }
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def system_name() -> str:
    """What object files of this machine are for, such as "linux-x86_64"."""
    machine = platform.machine().lower()
    return f"{sys.platform}-{_MACHINES.get(machine, machine)}"


def _read_manifest(path: Path) -> dict[str, object]:
    import json

    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"more than {MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise KernelError(f"{path}: no manifest of kernels, {error}; {REMEDY}") from error
    if not isinstance(manifest, dict):
        raise KernelError(f"{path}: no manifest of kernels, but {shown(manifest)}; {REMEDY}")
    return manifest


def _refuse_writable_by_all(*paths: Path) -> None:
    """KernelError if every user of the machine could change what would be run."""
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise KernelError(f"{path}: cannot be read, {error}; {REMEDY}") from error
        if os.name == "posix" and mode & stat.S_IWOTH:
            raise KernelError(f"{path} may be written to by everybody; run: chmod -R o-w {path}")
