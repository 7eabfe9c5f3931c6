"""Where edgellama keeps what it can make or fetch again: compiled kernels and models.

Knows the user's cache folder, and the temporary folder that stands in for it where it cannot be
written to. What lies in it is the business of those who fill it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
from functools import cache
from pathlib import Path

from edgellama.quant.errors import CacheError
from edgellama.quant.ways import Way

APPLICATION = "edgellama"
CACHE_VARIABLE = "EDGELLAMA_CACHE"
TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_FULL_DISK = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})

logger = logging.getLogger(__name__)


def cache_root() -> Path:
    """The user's cache folder for edgellama; EDGELLAMA_CACHE overrides the platform's own."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override)
    plain = _plain_linux_cache() if sys.platform == "linux" else None
    if plain is not None:
        return Path(plain, APPLICATION)
    from platformdirs import user_cache_path

    return user_cache_path(APPLICATION, appauthor=False)


def _plain_linux_cache() -> str | None:
    """What platformdirs says on Linux, where nothing is unusual: its import takes 4 ms."""
    home, chosen = os.environ.get("HOME", ""), os.environ.get("XDG_CACHE_HOME", "")
    if "ANDROID_DATA" in os.environ or not os.path.isabs(chosen or home):
        return None
    return chosen or os.path.join(home, ".cache")


def cache_folders(name: str) -> list[Path]:
    """Where things of the kind ``name``, such as "models", may lie; the first one counts most.

    That is in the cache folder, and in the temporary one if it was ever needed.
    """
    roots = [cache_root()]
    temporary = temporary_root()
    if _is_private(temporary):
        roots.append(temporary)
    return [root / name for root in roots]


def folder_to_fill(name: str) -> Path:
    """The folder for new things of the kind ``name``, which is made if need be.

    Where the cache folder cannot be written to, a temporary folder takes its place, which is said
    once as a warning. Raises CacheError if the disk is full, or if neither can be used.
    """
    folder = cache_root() / name
    try:
        _make_writable(folder)
        return folder
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise storage_error(folder, error) from error
        refused = error
    try:
        root = _make_private(temporary_root())
        _make_writable(root / name)
    except OSError as error:
        raise storage_error(folder, refused) from error
    _warn(cache_root(), root, refused.strerror or str(refused))
    return root / name


def storage_error(path: Path, error: OSError) -> CacheError:
    """The error for what the system refuses to store at ``path``, with what to do about it."""
    problem = f"{path} cannot be written: {error.strerror or error}"
    if error.errno in _FULL_DISK:
        return CacheError(problem, way=free_space())
    return CacheError(f"{problem}; set {CACHE_VARIABLE} to a folder that you can write to")


def free_space() -> Way:
    """What helps where the cache's disk is full."""
    other = f"set {CACHE_VARIABLE} to a folder on another disk"
    return Way(
        f"free some space, or {other}",
        f"free some space (edgellama clean removes what is not needed), or {other}",
    )


def temporary_root() -> Path:
    """The folder that stands in for the cache, this user's alone."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(_temporary_folder()) / f"edgellama{user}"


def _temporary_folder() -> str:
    """What ``tempfile`` would say, whose import takes longer than all else here together."""
    if os.name == "posix" and "tempfile" not in sys.modules:
        for name in (*(os.environ.get(variable) for variable in TEMPORARY_VARIABLES), "/tmp"):
            if name and os.path.isdir(name) and os.access(name, os.W_OK | os.X_OK):
                return os.path.abspath(name)
    import tempfile

    return tempfile.gettempdir()


def _make_writable(folder: Path) -> None:
    """OSError unless something can be written to ``folder``; asking for rights does not tell."""
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    descriptor, path = tempfile.mkstemp(prefix=".writable-", dir=folder)
    os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):  # Another process may tidy up there.
        os.unlink(path)


def _make_private(folder: Path) -> Path:
    """OSError unless ``folder`` is this user's alone: machine code is run from it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(folder):
        raise OSError(errno.EPERM, f"{folder} may be written to by others")
    return folder


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        return False
    # On Windows the temporary folder itself is the user's own.
    return not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )


@cache
def _warn(root: Path, temporary: Path, reason: str) -> None:
    logger.warning(
        "%s cannot be written to (%s); using %s instead, which may be gone after a restart; set "
        "%s to a folder that you can write to",
        *(root, reason, temporary, CACHE_VARIABLE),
    )
