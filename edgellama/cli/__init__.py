"""The ``edgellama`` command: reads arguments, shows results, explains errors.

Each command is a module that is imported when it is used, so that help appears at once. Everything
that decides or computes is in the Python API.
"""

from __future__ import annotations

TYPE_CHECKING = False  # As in the package: an interrupt while ``typing`` is imported is not ours.

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave the process with its exit code."""
    import sys

    try:
        from edgellama.cli.garbage import expect_start

        expect_start()
        from edgellama.cli.interrupts import end_at_once

        end_at_once()
        from edgellama.cli.application import prepare_process, run
        from edgellama.cli.standard_streams import flush_all

        prepare_process()
        exit_code = run(arguments)
        if not flush_all():
            exit_code = exit_code or 1
    except KeyboardInterrupt:
        exit_code = 130
    except RuntimeError as error:
        # Before Python 3.12 an interrupt while a class is made becomes the cause of such an error.
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        exit_code = 130
    sys.exit(exit_code)
