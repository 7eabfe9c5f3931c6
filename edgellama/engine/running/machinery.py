"""What steps run on: weights, the runner with its buffers, threads, programs.

All of it can be released and made again, with other threads too. The engine makes sure that no step
runs meanwhile. This module does not know which steps run, or for whom.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgellama.engine.program.program import Op, Program
from edgellama.engine.running.thread_priority import lower_priority
from edgellama.engine.steps.step import StepRunner
from edgellama.engine.weights.weights import ModelWeights, load_weights
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
from edgellama.kernels_cpu.machine.cpu import default_num_threads
from edgellama.kernels_cpu.threads.thread_team import ThreadTeam
from edgellama.quant.error_text import shown
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.quant.given_values import is_whole

if TYPE_CHECKING:
    from edgellama.engine.program.hooks import Hook
    from edgellama.engine.running.next_token import RepeatableStep
    from edgellama.engine.running.step_timer import StepTimer
    from edgellama.kernels_cpu.machine.cpu import Tier
    from edgellama.quant.gguf.file import GGUFFile
    from edgellama.quant.model_config import ModelConfig
    from edgellama.quant.watched_files import WatchedFiles

MAX_THREADS = 256
MAX_PROGRAMS = 64
"""Programs that are kept: more than there are kinds of steps, not as many as sets of adapters."""


class Machinery:
    """The machinery of one engine: in use, released for a while, or closed for good.

    ``runner``, ``weights`` and ``team`` are the present ones; ``last_step`` is what a step has left
    for a similar one. ``on_reload`` is called when they were made again after ``release``, or in a
    forked process. Callers have the engine's scheduler to themselves.
    """

    def __init__(
        self,
        file: GGUFFile,
        config: ModelConfig,
        tier: Tier,
        *,
        num_threads: int | None,
        layers: range,
        is_exact: bool,
        timer: StepTimer | None,
    ) -> None:
        """Map weights and reserve buffers; ``start`` starts the threads, once kernels are there."""
        self._file, self._config, self._tier = file, config, tier
        self._layers, self._is_exact, self._timer = layers, is_exact, timer
        self._num_threads = checked_num_threads(num_threads)
        self._is_low_priority = self._is_closed = False
        self.hooks: tuple[Hook, ...] = ()
        self.programs: dict[tuple[object, ...], Program] = {}
        self.kernels = CompiledKernels(tier)
        self.last_step: RepeatableStep | None = None
        self.on_reload: Callable[[], None] | None = None
        self.weights: ModelWeights | None = load_weights(file, config)
        # The watch has descriptors of its own: whoever opened the file may close it.
        self._watched: WatchedFiles | None = file.watch()
        self.runner: StepRunner | None = self._new_runner(self.weights)
        self._teams: list[ThreadTeam] = []
        weakref.finalize(self, _end_teams, self._teams)

    def start(self) -> None:
        """Start the threads."""
        self.team = self._new_team()

    @property
    def num_threads(self) -> int:
        """How many threads compute."""
        return self._num_threads

    @property
    def is_low_priority(self) -> bool:
        """Whether they give way to other programs."""
        return self._is_low_priority

    def open(self) -> StepRunner:
        """The runner of steps, loaded if need be. It keeps the weights while its caller holds it.

        So if a signal handler closes the engine inside a step, memory stays mapped until its end.
        """
        if self._is_closed:
            raise EdgellamaError("this model is closed")
        if self.runner is None:
            if self.weights is None:
                self._file.reopen()
                self._watched = self._file.watch()
                self.weights = load_weights(self._file, self._config)
            self._use(self._new_runner(self.weights), self._new_team())
            if self.on_reload is not None:
                self.on_reload()
        assert self.runner is not None
        return self.runner

    def check_file(self) -> None:
        """ModelFileError if the file was cut or written to; asked before anything reads weights."""
        if (watched := self._watched) is not None:
            watched.check()

    def open_weights(self) -> ModelWeights:
        """The model's tensors, which are there to be read."""
        self.open()
        self.check_file()
        assert self.weights is not None
        return self.weights

    def card_bytes(self) -> int:
        """What steps will take of a graphics card's memory besides pages, where that is to come."""
        return 0 if self.runner is None else self.runner.card_bytes

    def set_hooks(self, hooks: tuple[Hook, ...]) -> None:
        """Let other hooks see the steps; programs that were written for others go."""
        self.open().set_hooks(hooks)
        self.hooks, self.last_step = hooks, None
        for key in [key for key in self.programs if isinstance(key[0], tuple)]:
            del self.programs[key]

    def restart(self, num_threads: int, is_low_priority: bool) -> None:
        """Let other threads run the next step, with what belongs to their number."""
        before = self._num_threads, self._is_low_priority
        self._num_threads, self._is_low_priority = num_threads, is_low_priority
        try:
            if self.weights is not None:
                self._use(self._new_runner(self.weights), self._new_team())
        except BaseException:
            self._num_threads, self._is_low_priority = before
            raise

    def release(self) -> None:
        """Give everything back; ``open`` makes it again."""
        _end_teams(self._teams)
        self._leave_card()
        self.runner = self.weights = self.last_step = self._watched = None
        self.programs.clear()

    def lose_threads(self) -> None:
        """In a forked process, where there are none, let the next step start others."""
        self.runner = self.last_step = None
        self.programs.clear()

    def unload(self) -> None:
        """Give everything back, and close the file until then."""
        self.release()
        self._file.close()

    def refuse(self) -> None:
        """Open no more, from the next step on."""
        self._is_closed = True

    def program(self, key: tuple[object, ...], ops: Callable[[], list[Op]]) -> Program:
        """The program of ``ops``, which are asked for once for each key.

        Those that were used least recently go first: sets of adapters come and go.
        """
        program = self.programs.pop(key, None)
        if program is None:
            written: Sequence[Op] = ops()
            self.kernels.ensure(op.kernel.name for op in written)
            if self._timer:
                written = self._timer.separated(list(written))
            program = Program(written, self.kernels, keeps_ops=self._timer is not None)
            while len(self.programs) >= MAX_PROGRAMS:
                del self.programs[next(iter(self.programs))]
        self.programs[key] = program
        return program

    def _leave_card(self) -> None:
        if self.runner is not None and self.runner.card is not None:
            self.runner.card.close()

    def _new_runner(self, weights: ModelWeights) -> StepRunner:
        runner = StepRunner(
            self._config, weights, self._tier, self._num_threads,
            layers=self._layers, is_exact=self._is_exact,
        )  # fmt: skip
        if self.hooks:
            runner.set_hooks(self.hooks)
        return runner

    def _new_team(self) -> ThreadTeam:
        team = ThreadTeam(self.kernels, self._num_threads)
        # Known before its threads start, so that somebody ends them whenever Ctrl-C comes.
        self._teams.append(team)
        team.start()
        if self._is_low_priority:
            lower_priority(team.worker_ids)
        return team

    def _use(self, runner: StepRunner, team: ThreadTeam) -> None:
        self._leave_card()
        self.programs.clear()
        self.last_step = None
        self.runner, self.team = runner, team
        _end_teams(self._teams, kept=team)


def _end_teams(teams: list[ThreadTeam], kept: ThreadTeam | None = None) -> None:
    """End all teams but one; those that are left by Ctrl-C are ended by the next call."""
    for team in teams.copy():
        if team is not kept:
            team.close()
            with contextlib.suppress(ValueError):  # A signal's handler has ended it meanwhile.
                teams.remove(team)


def checked_num_threads(number: int | None) -> int:
    """A number of threads, None for the machine's own; InvalidOptionError for what cannot be."""
    found = default_num_threads() if number is None else number
    if not is_whole(found, 1) or found > MAX_THREADS:
        raise InvalidOptionError(f"num_threads is {shown(found)}; allowed: 1 to {MAX_THREADS}")
    return int(found)
