"""``python -m stress NAME MODEL SECONDS SEED``: one of the programs, with a watchdog.

When the program takes ten minutes longer than it was told to, all threads' stacks are printed and
it ends with status 1.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
from pathlib import Path

from stress.answers import answers
from stress.closing_places import closing_places
from stress.conversations import soak
from stress.crowd import crowd
from stress.hammer import hammer
from stress.interrupt import interrupt
from stress.interrupt_places import interrupt_places
from stress.kinds import kinds
from stress.sequences import sequences
from stress.thousand import thousand

PROGRAMS = {
    "answers": answers,
    "closing": closing_places,
    "crowd": crowd,
    "hammer": hammer,
    "interrupt": interrupt,
    "kinds": kinds,
    "places": interrupt_places,
    "sequences": sequences,
    "soak": soak,
    "thousand": thousand,
}
PATIENCE_S = 600.0


def main(name: str, path: str, seconds: str, seed: str) -> None:
    """Run a program to its end."""
    # A full context is no news here.
    logging.disable(logging.WARNING)
    faulthandler.enable()
    faulthandler.dump_traceback_later(float(seconds) + PATIENCE_S, exit=True)
    PROGRAMS[name](Path(path), float(seconds), int(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])
