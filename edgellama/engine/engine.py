"""The engine: runs steps of a Llama over token ids, on its own threads.

Knows weights, programs and caches; no text, no sampling, no sessions. One step runs at a time;
callers on other threads wait inside ``forward``.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgellama.engine.buffers import Rows, StepBuffers
from edgellama.engine.cancellation import CancelToken
from edgellama.engine.kv_cache import KVCache
from edgellama.engine.kv_types import KVTypeChoice, KVTypes
from edgellama.engine.llama_program import InputObserver, LlamaProgram
from edgellama.engine.program import Op, Program
from edgellama.engine.rope import RopeTable
from edgellama.engine.step_sizes import MAX_SHORT_TOKENS, step_tokens
from edgellama.engine.step_timer import StepTimer
from edgellama.engine.step_values import Mode
from edgellama.engine.turns import CANCELLED, Turns
from edgellama.engine.weights import ModelWeights, load_weights
from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels, choose_tier
from edgellama.kernels_cpu.compiling.compile_pool import Progress
from edgellama.kernels_cpu.machine.cpu import default_num_threads
from edgellama.kernels_cpu.sampling.chooser import CHOICE_KERNEL
from edgellama.kernels_cpu.threads.thread_team import ENTRY_KERNELS, TIMED_ENTRY, ThreadTeam
from edgellama.quant.errors import (
    ContextLengthError,
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
)
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.model_config import ModelConfig

__all__ = ["CancelToken", "Engine"]

_log = logging.getLogger(__name__)
LOGIT_ROWS = 64
"""Tokens whose logits are computed together when all are wanted."""
MAX_THREADS = 256
LogitsChoice = Literal["last", "all", "none"]


class Engine:
    """A model ready to run; a context manager.

    Thread-safe: callers take turns, one chunk of up to ``step_tokens`` at a time.
    """

    def __init__(
        self,
        file: GGUFFile,
        *,
        num_threads: int | None = None,
        tier: str | None = None,
        progress: Progress | None = None,
        kv_type: KVTypeChoice = "f16",
        observer: InputObserver | None = None,
        timer: StepTimer | None = None,
        companions: Iterable[str] = (),
    ) -> None:
        """Compile what is missing and start the threads.

        ``progress`` hears of (compiled, total) kernels, and only if any must be compiled; then
        ``companions`` are compiled too, for other models.
        ``kv_type``: of caches, as for ``Llama``, unless one is asked to have another.
        ``observer`` is an instrument that becomes part of every step, ``timer`` one that runs it.
        Raises ModelFileError, UnsupportedModelError, KernelError or InvalidOptionError.
        """
        self.config = ModelConfig.from_gguf(file)
        self.num_threads = default_num_threads() if num_threads is None else num_threads
        if not 1 <= self.num_threads <= MAX_THREADS:
            raise InvalidOptionError(f"{self.num_threads} threads; allowed: 1 to {MAX_THREADS}")
        self._kv_types = KVTypes.of(kv_type)
        self.tier = choose_tier(tier)
        self.step_tokens = step_tokens(self.config)
        weights = load_weights(file, self.config)
        self._rope = RopeTable(self.config.rope, weights.rope_freqs)
        self._buffers = StepBuffers(
            self.config, self.tier, self.num_threads, self._rope.row_numbers
        )
        self._model: LlamaProgram | None = LlamaProgram(
            self.config, weights, self._buffers, self.num_threads, observer
        )
        self._last_logits = self._buffers.logits(self.config.vocab_size, 1)
        self._all_logits: Rows | None = None
        self._programs: dict[tuple[str, ...], Program] = {}
        self._kernels = CompiledKernels(self.tier)
        entries = {TIMED_ENTRY} if timer else set()
        self._kernels.ensure(self.usual_kernels() | entries, progress, companions)
        self._timer = timer
        self._team = ThreadTeam(self._kernels, self.num_threads)
        self._stop_team = weakref.finalize(self, self._team.close)
        self._turns = Turns()
        self._has_warned = False

    def new_cache(
        self, context_length: int | None = None, *, kv_type: KVTypeChoice | None = None
    ) -> KVCache:
        """A cache for one sequence; ``context_length`` defaults to the model's own.

        ``kv_type`` defaults to the engine's. Raises InvalidOptionError.
        """
        length = self.config.context_length if context_length is None else context_length
        types = self._kv_types if kv_type is None else KVTypes.of(kv_type)
        window = self.config.sliding_window
        if window is not None and length > window and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "this model has a sliding window of %d tokens, which is not obeyed yet: with more "
                "in the context (of %d) replies differ from what its makers intended; "
                "a context of %d (-c, context_length) avoids it",
                *(window, length, window),
            )
        return KVCache(self.config, length, str(types), self.tier.lanes)

    def forward(
        self,
        tokens: Sequence[int] | npt.NDArray[np.int32],
        cache: KVCache,
        *,
        logits: LogitsChoice = "last",
        cancelled: CancelToken | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Append ``tokens`` to the cache; logits (1, n or 0 tokens, vocab_size) as a new array.

        Raises ContextLengthError when they do not fit, GenerationCancelled when the token is
        set; the cache then holds the chunks that were complete. ``progress`` hears of
        (tokens done, tokens in all) after each chunk of ``step_tokens``.
        """
        ids = self._checked(tokens, cache)
        outputs: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(ids), self.step_tokens):
            chunk = ids[start : start + self.step_tokens]
            done = start + len(chunk)
            wanted: LogitsChoice = "none" if logits == "last" and done < len(ids) else logits
            work = partial(self._run_chunk, chunk, cache, wanted, cancelled)
            outputs += self._turns.take(work, cancelled)
            if progress:
                progress(done, len(ids))
        if len(outputs) == 1:
            return outputs[0]
        return np.concatenate([np.empty((0, self.config.vocab_size), np.float32), *outputs])

    @property
    def weights(self) -> ModelWeights:
        """The model's tensors; EdgellamaError once the engine is closed."""
        return self._writer.weights

    @property
    def kernels(self) -> CompiledKernels:
        """The compiled code, for what is done with logits besides."""
        return self._kernels

    @property
    def num_compiled(self) -> int:
        """Kernels that the cache of compiled code did not have when this engine wanted them."""
        return self._kernels.num_compiled

    def step_ops(self, num_tokens: int, kv_type: KVTypeChoice = "f16") -> list[Op]:
        """The ops of a step of up to ``step_tokens`` and of the last one's logits."""
        return self._step_ops(_mode(num_tokens), KVTypes.of(kv_type))

    def run_ops(self, name: str, ops: Callable[[], list[Op]]) -> float:
        """Run an instrument's own ops between two steps; the seconds that they took.

        ``ops`` is asked once for each ``name``; the caller keeps the memory that they name.
        """

        def run() -> float:
            held = self._writer
            program = self._programs.get(("instrument", name))
            if program is None:
                program = self._build(("instrument", name), ops())
            program.prepare(self._team.next_job)
            started = perf_counter()
            self._team.run(program.memory, owner=program)
            del held
            return perf_counter() - started

        return self._turns.take(run)

    def close(self) -> None:
        """Stop the threads, after the running step, and let go of the file's weights.

        The engine is unusable afterwards.
        """
        self._turns.take(self._release)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _release(self) -> None:
        self._stop_team()
        self._model = None
        self._programs.clear()

    @property
    def _writer(self) -> LlamaProgram:
        """What writes the steps, and with it the weights: held by whoever runs one.

        A signal's handler may close the engine inside a step, which ends on mapped memory.
        """
        if self._model is None:
            raise EdgellamaError("the engine is closed")
        return self._model

    def _run_chunk(
        self,
        chunk: npt.NDArray[np.int64],
        cache: KVCache,
        logits: LogitsChoice,
        cancelled: CancelToken | None,
    ) -> list[npt.NDArray[np.float32]]:
        """Append a chunk to the cache; the logits wanted of it, in parts."""
        held = self._writer
        self._run_step(chunk, cache, logits == "last", cancelled)
        outputs: list[npt.NDArray[np.float32]] = []
        if logits == "all":
            outputs = self._all_rows(len(chunk), cancelled)
        elif logits == "last":
            outputs = [self._last_logits.array[:1, : self.config.vocab_size].copy()]
        cache.length += len(chunk)
        del held
        return outputs

    def usual_kernels(self) -> set[str]:
        """Kernels of a chat: long and short steps, logits of one token, the choice of the next."""
        modes: tuple[Mode, ...] = get_args(Mode)
        ops = (op for mode in modes for op in self._step_ops(mode, self._kv_types))
        return {op.kernel for op in ops} | {*ENTRY_KERNELS, CHOICE_KERNEL}

    def _checked(
        self, tokens: Sequence[int] | npt.NDArray[np.int32], cache: KVCache
    ) -> npt.NDArray[np.int64]:
        ids = np.asarray(tokens)
        if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise InvalidOptionError(
                f"tokens must be one row of whole numbers, not {ids.dtype} of shape {ids.shape}"
            )
        if len(ids):
            low, high = (ids[0], ids[0]) if len(ids) == 1 else (ids.min(), ids.max())
            if low < 0 or high >= self.config.vocab_size:
                allowed = f"0 to {self.config.vocab_size - 1}"
                raise InvalidOptionError(f"token ids from {low} to {high}; allowed: {allowed}")
        self._check_room(len(ids), cache)
        return ids.astype(np.int64)

    def _check_room(self, num_tokens: int, cache: KVCache) -> None:
        if cache.length + num_tokens > cache.context_length:
            raise ContextLengthError(
                f"{cache.length} tokens and {num_tokens} more do not fit a context of "
                f"{cache.context_length} tokens",
                cache.length + num_tokens,
                cache.context_length,
            )

    def _run_step(
        self,
        chunk: npt.NDArray[np.int64],
        cache: KVCache,
        with_logits: bool,
        cancelled: CancelToken | None,
    ) -> None:
        """The body over a chunk and, if wanted, the head over its last token, in one program."""
        mode = _mode(len(chunk))
        # Others may have used or closed the cache while this caller waited for its turn.
        self._check_room(len(chunk), cache)
        key = ("step", mode, str(cache.types), "logits" if with_logits else "")
        program = self._programs.get(key)
        if program is None:
            write = self._step_ops if with_logits else self._writer.body
            program = self._build(key, write(mode, cache.types))
        self._buffers.token_ids[: len(chunk)] = chunk
        self._rope.fill(self._buffers.cos_sin, cache.length, len(chunk))
        program.prepare(
            self._team.next_job,
            cache.strides(),
            num_tokens=len(chunk),
            position=cache.length,
            num_outputs=1,
            first_row=self._residual_row(len(chunk) - 1),
            **cache.bindings(),
        )
        memory = cache.memory
        self._run(program, cancelled)
        del memory

    def _step_ops(self, mode: Mode, types: KVTypes) -> list[Op]:
        return self._writer.body(mode, types) + self._writer.head("decode", self._last_logits)

    def _all_rows(
        self, num_tokens: int, cancelled: CancelToken | None
    ) -> list[npt.NDArray[np.float32]]:
        """Logits of all tokens of the step that has just run."""
        vocab_size = self.config.vocab_size
        rows = self._all_logits = self._all_logits or self._buffers.logits(vocab_size, LOGIT_ROWS)
        outputs = []
        for first in range(0, num_tokens, LOGIT_ROWS):
            count = min(LOGIT_ROWS, num_tokens - first)
            mode = _mode(count)
            program = self._programs.get(("head", mode))
            if program is None:
                program = self._build(("head", mode), self._writer.head(mode, rows))
            program.prepare(
                self._team.next_job, num_outputs=count, first_row=self._residual_row(first)
            )
            self._run(program, cancelled)
            outputs.append(rows.array[:count, :vocab_size].copy())
        return outputs

    def _residual_row(self, token: int) -> int:
        """Address of what the last body left of a token of its step."""
        residual = self._buffers.residual
        return residual.address + token * residual.stride

    def _build(self, key: tuple[str, ...], ops: list[Op]) -> Program:
        self._kernels.ensure(op.kernel for op in ops)
        if self._timer:
            ops = self._timer.separated(ops)
        program = self._programs[key] = Program(ops, self._kernels)
        return program

    def _run(self, program: Program, cancelled: CancelToken | None) -> None:
        flag = None if cancelled is None else cancelled.flag
        if self._timer:
            done = self._timer.run(self._team, program, flag)
        else:
            done = self._team.run(program.memory, flag, owner=program)
        if not done:
            raise GenerationCancelled(CANCELLED)


def _mode(num_tokens: int) -> Mode:
    """Which kernels a step of so many tokens takes."""
    if num_tokens == 1:
        return "decode"
    return "short" if num_tokens <= MAX_SHORT_TOKENS else "prefill"
