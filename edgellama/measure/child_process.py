"""Runs a measurement in a process of its own, so that its start and memory are its own, too.

The child runs a module's function with a request, and reports its progress, result or error as
lines of JSON on standard output. The module knows what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any

from edgellama.quant import errors
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.progress import Progress
from edgellama.quant.ways import Way

Request = Mapping[str, Any]
KILLED = 9
"""The signal that nobody can catch."""
STARTED = "started"
"""The request's field that holds ``time.monotonic()`` of the moment before the child's start."""
_ERRORS: Mapping[str, type[EdgellamaError]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in vars(errors).values()
        # ContextLengthError wants counts besides its text.
        if isinstance(kind, type) and kind is not errors.ContextLengthError
    }
)


def run_in_child(module: str, request: Request, progress: Progress | None = None) -> dict[str, Any]:
    """The result of the function that ``module`` serves, when run with ``request``.

    Raises what the child raised, by the names in ``quant.errors``; EdgellamaError if it died.
    """
    # The clock is the system's, so that the child can tell how long its own start took.
    command = [sys.executable, "-m", module, json.dumps({**request, STARTED: monotonic()})]
    # A session of its own: the terminal's Ctrl-C is for this process, which ends the child.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "1"},
        encoding="utf-8",
        start_new_session=True,
    ) as child:
        try:
            result = _read(child, progress)
        except BaseException:
            child.kill()
            raise
    if result is None:
        raise EdgellamaError(f"the measuring process {_end(child.returncode)}")
    return result


def _end(exit_code: int) -> str:
    """How a process ended that has not said why; one that is out of memory is killed."""
    if exit_code == -KILLED:
        return "was killed, as the system does where memory ends; choose a shorter context"
    return f"ended with exit code {exit_code}"


def _read(child: subprocess.Popen[str], progress: Progress | None) -> dict[str, Any] | None:
    assert child.stdout is not None
    for line in child.stdout:
        message = json.loads(line)
        if "progress" in message and progress:
            progress(*message["progress"])
        if "error" in message:
            kind, way = _ERRORS.get(message["error"], EdgellamaError), message["way"]
            raise kind(message["text"], way=Way(*way) if way else None)
        if "result" in message:
            found: dict[str, Any] = message["result"]
            return found
    return None


def serve(function: Callable[[dict[str, Any], Progress], dict[str, Any]]) -> None:
    """The child's side: run ``function`` with the request of the command line, and answer."""
    try:
        result = function(
            json.loads(sys.argv[1]), lambda done, total: _tell(progress=(done, total))
        )
    except EdgellamaError as error:
        way = error.way and (error.way.python, error.way.command)
        _tell(error=type(error).__name__, text=error.what, way=way)
    except BrokenPipeError:
        os._exit(1)  # Nobody is waiting for the answer.
    else:
        _tell(result=result)


def _tell(**message: object) -> None:
    print(json.dumps(message), flush=True)
