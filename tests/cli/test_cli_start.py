"""What a command's process does before its command runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness.interrupts import accept_interrupts

INTERRUPTED_IMPORT = """
import importlib.abc, sys

class Interrupt:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            if {in_class}:
                type("Class", (), {{"name": Interrupt()}})
            raise KeyboardInterrupt

from edgellama.cli import main
sys.meta_path.insert(0, Finder())
main(["inspect", "missing.gguf"])
"""


@pytest.mark.parametrize("in_class", [False, True])
@pytest.mark.parametrize(
    "module", ["edgellama.cli.application", "edgellama.cli.commands.inspect_model"]
)
def test_an_interrupted_import_ends_silently(module: str, in_class: bool) -> None:
    """Ctrl-C while modules are imported ends the process with 130 and no traceback.

    Before Python 3.12 one that comes while a class is made is the cause of a RuntimeError.
    """
    code = INTERRUPTED_IMPORT.format(module=module, in_class=in_class)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


INTERRUPTED_CALLBACK = """
import importlib.abc, signal, sys, time, weakref

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            thing = Finder()
            seen = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
            del thing
            time.sleep(60)

from edgellama.cli import main
sys.meta_path.insert(0, Finder())
main(["inspect", "missing.gguf"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize(
    "module", ["edgellama.cli.commands.inspect_model", "edgellama.cli.inputs.model_argument"]
)
def test_an_interrupt_in_a_callback_is_not_lost(module: str) -> None:
    """Ctrl-C in a callback of a weak reference, as imports have them, ends the process silently."""
    code = INTERRUPTED_CALLBACK.format(module=module)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=40,
        preexec_fn=accept_interrupts,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_entry_point_imports_nothing_else() -> None:
    """An interrupt breaks into no other import before the command takes care of it."""
    code = "import sys; had = {*sys.modules}; import edgellama.cli; print(*({*sys.modules} - had))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert {*ended.stdout.split()} <= {"__future__", "edgellama", "edgellama.cli"}
