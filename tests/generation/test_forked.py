"""Processes that are forked from one with an open model, which may be in the middle of a step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.cold_kernels import run_python

from edgellama.quant.process_bound import ForkCalls

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

FORKED = """
import os, signal, threading, warnings
from edgellama import Llama
warnings.simplefilter("ignore")  # Python 3.12 warns of threads.
llama = Llama(sys.argv[1], num_threads=2, max_concurrent=1, idle_seconds=1000)
expected = llama.generate("Once upon a time", max_tokens=8, temperature=0).tokens
session = llama.session()
is_over, is_in_a_step = False, threading.Event()

def work():
    while not is_over:
        for chunk in session.stream("Hello " * 30, max_tokens=40, ignore_eos=True):
            is_in_a_step.set()

def in_child():
    names = [thread.name for thread in threading.enumerate()]
    assert names == ["MainThread"], names
    result = llama.generate("Once upon a time", max_tokens=8, temperature=0)
    assert result.tokens == expected
    names = sorted(thread.name for thread in threading.enumerate())
    assert names == ["MainThread", "edgellama-1", "edgellama-idle"], names
    llama.num_threads = 3
    assert llama.generate("Once upon a time", max_tokens=8, temperature=0).tokens == expected
    llama.close()

thread = threading.Thread(target=work)
thread.start()
for number in range(8):
    is_in_a_step.clear()
    assert is_in_a_step.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(60)
        in_child()
        sys.exit(0)
    print(os.waitpid(child, 0)[1])
is_over = True
session.close()
thread.join()
assert llama.generate("Once upon a time", max_tokens=8, temperature=0).tokens == expected
llama.close()
"""


def test_a_child_computes_whatever_the_parents_threads_did(tiny_path: Path) -> None:
    """A child has turns and, once it computes, threads of its own, gives the same text, and closes
    the model.
    """
    told = run_python(FORKED, str(tiny_path))
    assert told.stdout.split() == ["0"] * 8, told.stdout + told.stderr
    assert told.returncode == 0, told.stderr


CONTINUED = """
import os, warnings
from edgellama import Llama
warnings.simplefilter("ignore")
llama = Llama(sys.argv[1], num_threads=2)
options = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
expected = llama.generate("Once upon a time", **options).text
stream = llama.stream("Once upon a time", **options)
text = next(stream).text
child = os.fork()
text += "".join(chunk.text for chunk in stream)
assert text == expected == stream.result.text
if not child:
    sys.exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_both_continue_a_text(tiny_path: Path) -> None:
    """A text that its thread has begun before it forks goes on in both processes."""
    told = run_python(CONTINUED, str(tiny_path))
    assert told.returncode == 0 and told.stdout == "0\n", told.stdout + told.stderr


LOCKED = """
import os, signal, threading, types, warnings
from edgellama import Llama
from edgellama.engine.card.choice import AttentionChoice
from edgellama.engine.card.placement import CardPlacement
from edgellama.constraints.compiler import ConstraintCompiler
warnings.simplefilter("ignore")
llama = Llama(sys.argv[1], num_threads=1)
shelf = llama._engine.adapters
compiler = ConstraintCompiler(llama.tokenizer)
placement = CardPlacement(AttentionChoice("auto"), llama.config, 0, *[None] * 3)
are_held, is_over = threading.Event(), threading.Event()

def hold():
    with shelf._lock, placement._placing, compiler._lock:
        are_held.set()
        is_over.wait()

stream = llama.session().stream("Hello", max_tokens=5)
stream._thread = -1  # as if another thread were computing
threading.Thread(target=hold).start()
are_held.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    with shelf._lock, placement._placing, compiler._lock:
        pass
    try:
        stream.result
    except Exception as error:
        assert "another thread's" in str(error), error
        os._exit(0)
    os._exit(1)
print(os.waitpid(child, 0)[1])
stream._thread = None
is_over.set()
"""


def test_a_child_waits_for_no_lock_of_the_parents_threads(tiny_path: Path) -> None:
    """Locks that other threads held are free in a child, and lost texts say what has ended them."""
    told = run_python(LOCKED, str(tiny_path))
    assert told.stdout.split() == ["0"], told.stdout + told.stderr


class Forked:
    """Wants to hear of forks."""

    def call(self) -> None:
        """Do nothing."""


def test_what_is_gone_is_called_no_more() -> None:
    """Methods of objects that are gone are forgotten, not kept for every later fork."""
    calls, lasting = ForkCalls(), Forked()
    calls.add(lasting.call)
    for _ in range(50):
        calls.add(Forked().call)
    assert len(calls) <= 2
