"""The caller of a text: a thread that waits for it, or a task of an event loop.

Callers are only compared, never called. ``worker`` brings a task's calls to a thread.
"""

from __future__ import annotations

import threading
import weakref
from contextvars import Context, ContextVar, copy_context
from typing import Any

_TASK: ContextVar[object] = ContextVar("edgellama_task", default=None)


def caller() -> object:
    """The caller of the running code; equal for two calls of one thread, or of one task."""
    return _TASK.get() or threading.get_ident()


def context_of_task(task: Any) -> Context:
    """A context in which ``caller`` is this task, on whatever thread it is entered."""
    context = copy_context()
    if task is not None:
        context.run(_TASK.set, weakref.ref(task))
    return context
