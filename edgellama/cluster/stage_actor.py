"""The actor on a node of Ray: opens its own file of the model, and serves a stage.

It finds the file by path or name, compares the model's identity, and passes calls on to a
``Stage``. ``ray_stages`` starts it, and starts it again if it is lost.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgellama import __version__
from edgellama.cluster.connections.direct_line import LineAddress, LineServer
from edgellama.cluster.stages.next_token import NextToken
from edgellama.cluster.stages.stage_call import StageCall
from edgellama.cluster.stages.stage_hooks import AnswerHook
from edgellama.cluster.stages.stage_task import StageTask
from edgellama.quant.errors import EdgellamaError

if TYPE_CHECKING:
    from edgellama.cluster.stages.stage import Stage
    from edgellama.quant.gguf.file import GGUFFile


@dataclass(frozen=True)
class StageOrder:
    """What a stage is made of: the model as its node knows it, the layers, options of ``Stage``.

    ``place``: the Ray resource of the node that it runs on (``ray start --resources``), or None
    for any node. ``identity``: of the driver's file, which the node's own must have too, as it
    must have the edgellama of ``version``.
    """

    model: str
    layers: range
    identity: str
    place: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    version: str = __version__


class StageActor:
    """What runs on a node. Its constructor can be run again, and opens nothing yet."""

    def __init__(self, order: StageOrder) -> None:
        self._order = order
        self._file: GGUFFile | None = None
        self._stage: Stage | None = None
        self._line: LineServer | None = None

    def open(self) -> EdgellamaError | None:
        """Map the layers if that was not done yet; what is wrong with this node's file."""
        try:
            self._opened()
        except EdgellamaError as error:
            return error
        return None

    def answer(
        self, message: list[StageCall] | NextToken | StageTask, driver: AnswerHook | None = None
    ) -> object:
        """See ``Stage.answer``."""
        return self._opened().answer(message, driver)

    def line(self) -> LineAddress | None:
        """Where calls may come to directly; None if nothing can listen here."""
        from ray.util import get_node_ip_address

        stage = self._opened()
        if self._line is None:
            try:
                self._line = LineServer(
                    get_node_ip_address(), stage.answer, self.pulse, stage.rehearse
                )
            except OSError:
                return None
        return self._line.address

    def pulse(self) -> object:
        """Say that this process is still there, and how far its work has come.

        On a thread that does nothing else.
        """
        return None if self._stage is None else self._stage.progress

    def forget(self, sequence: int) -> None:
        """See ``Stage.forget``."""
        if self._stage is not None:
            self._stage.forget(sequence)

    def _opened(self) -> Stage:
        from edgellama.cluster.stages.stage import Stage
        from edgellama.models.names import resolve
        from edgellama.quant.gguf.file import GGUFFile

        if self._stage is None:
            order = self._order
            if order.version != __version__:
                raise EdgellamaError(
                    f"edgellama {__version__} is installed there; the driver has {order.version}: "
                    "every machine needs the same"
                )
            _take_priority_of_ray()
            file = GGUFFile(resolve(order.model))
            try:
                self._stage = Stage(file, order.layers, identity=order.identity, **order.options)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._stage


def _take_priority_of_ray() -> None:
    """Let this process be as important as Ray's own, where the system allows that.

    Ray starts workers with niceness 15, with which any other program goes before a stage.
    ``low_priority`` asks for that.
    """
    with contextlib.suppress(OSError, AttributeError):
        niceness = os.getpriority(os.PRIO_PROCESS, os.getppid())
        for thread in os.listdir("/proc/self/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
