"""The ``edgellama`` command: reads arguments, shows results, explains errors.

Each command group is one module, imported when it is used, so that help stays instant.
Everything that decides or computes is in the Python API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and leaves the process with its exit code."""
    import sys

    try:
        from edgellama.cli.garbage import expect_start

        expect_start()
        from edgellama.cli.application import prepare_process, run
        from edgellama.cli.standard_streams import flush_all

        prepare_process()
        exit_code = run(arguments)
        if not flush_all():
            exit_code = exit_code or 1
    except KeyboardInterrupt:
        exit_code = 130
    sys.exit(exit_code)
