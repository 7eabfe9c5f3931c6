"""An open model: loaded by name into its parts, and closed with everything that depends on it.

``adjustable_model`` knows what may change meanwhile. Its uses are in ``session_model``,
``batch_model``, ``retrieval_model``, ``judging_model`` and ``llama``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, cast

from edgellama.adjustable_model import AdjustableModel
from edgellama.engine.card.choice import AttentionChoice, AttentionMode
from edgellama.engine.card.use import CardUse
from edgellama.engine.pages.kv_types import KVTypeChoice
from edgellama.engine.text_engine import TextEngine
from edgellama.generation.concurrency.waiting_line import WaitingLine
from edgellama.generation.sessions.living import Living
from edgellama.generation.sessions.session import Session
from edgellama.generation.speculation.speculation import (
    Speculation,
    SpeculationMode,
    speculation_mode,
)
from edgellama.loading import ModelParts
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.given_values import check_names
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.process_bound import call_after_fork
from edgellama.quant.typing_backports import Self
from edgellama.sampling.options import SamplingArguments
from edgellama.text.tokenizer import Tokenizer

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {"n_ctx": "context_length", "n_threads": "num_threads", "draft_model": "draft"}
)
"""What arguments are called in llama-cpp-python, where the nearest name would be another one."""


class OpenModel(AdjustableModel):
    """One file, tokenizer and engine, shared by sessions and threads. A context manager."""

    def __init__(
        self,
        path_or_name: str | os.PathLike[str],
        *,
        context_length: int | None = None,
        num_threads: int | None = None,
        kv_type: KVTypeChoice = "f16",
        quantize: str | None = None,
        cache_limit: int | None = None,
        exact: bool = False,
        rope_scaling: str | None = None,
        attention: AttentionMode = "auto",
        gpu: int | None = None,
        gpu_memory: int | None = None,
        speculation: SpeculationMode = "auto",
        draft: str | os.PathLike[str] | OpenModel | None = None,
        progress: Callable[[int, int], None] | None = None,
        compile_usual: bool = False,
        max_concurrent: int | None = None,
        low_priority: bool = False,
        idle_seconds: float | None = None,
        **unknown: NoReturn,
    ) -> None:
        """Load a model.

        Arguments:
            path_or_name: Path of a GGUF file, or a name that ``edgellama pull`` has fetched, such
                as "smollm2". With ``quantize`` also the folder of a checkpoint.
            context_length: How many tokens each session can hold, prompt and text together, from 1.
                None (the default) takes the model's own length, or less if memory is short. A model
                with LongRoPE, such as Phi-3.5, takes its frequencies for short texts if this is no
                more than its original length.
            num_threads: Threads to compute with, 1 to 256. None (the default) takes
                EDGELLAMA_NUM_THREADS, or else one per physical core.
            kv_type: Type of the KV cache: "f32", "f16" (the default), "bf16", "q8_0" or "q4_0". To
                give keys and values different types, write ("q8_0", "q4_0") or "q8_0/q4_0".
            quantize: Convert the model to this type before loading it, such as "q4_k_m", or "copy"
                for a file of another architecture, such as Phi-3's, whose numbers stay. The result
                is kept in the user's cache, so only the first time takes long. None (the default)
                loads the file as it is.
            cache_limit: Bytes, from 0, for keys and values of earlier texts. A new text that begins
                like one of them need not be computed from its start. A draft model gets a part of
                these bytes. None (the default) is a quarter of the memory that is free now.
            exact: Give a text the same bits whether it is computed alone, beside others, after a
                fork or from earlier texts. False by default, because it costs speed.
            rope_scaling: Scale positions, so that the model reads longer texts than it was trained
                for: "yarn:4", "dynamic:2" or "linear:4", where the number says how many times as
                long, or "none". None (the default) follows the file, which is right for models
                that were made for long contexts.
            attention: Where keys and values lie and attention is computed: "cpu", "cuda" (an NVIDIA
                card), or "auto" (the default), which uses a card for texts long enough to be faster
                there on this machine. Weights always stay in the computer's memory.
            gpu: Which card, counted from 0; None (the default) is the first that can be used.
            gpu_memory: Most bytes to use of the card's memory; None (the default) is all.
            speculation: Guess the next tokens from the text itself, and check several in one step.
                This is faster where a text repeats something, and never changes the text. "auto"
                (the default) guesses unless hooks would see the guesses, True always, False never.
                Each call can set its own.
            draft: A smaller model with the same vocabulary that guesses where the text repeats
                nothing: a path, a name, or a ``Llama``, which you close yourself. None (the
                default) is none.
            progress: Called as ``progress(compiled, total)`` while kernels are compiled; never
                called if all are compiled already.
            compile_usual: If any kernel must be compiled, also compile those of other common models
                and KV types in the background, so that these need not wait later. False by default.
                Kernels that check guesses are compiled in the background in any case.
            max_concurrent: How many texts may run at once (see the property); None (the default) is
                no limit.
            low_priority: Let other programs go first (see the property). False by default.
            idle_seconds: Give the memory back after this long without a text, as ``unload`` does.
                None (the default) is never.
            unknown: Not for use. Any other name is refused, and the error suggests the right one.

        Raises:
            ModelNotFoundError: No such file, or a name that was not pulled.
            ModelFileError: The file is damaged, incomplete or no GGUF file.
            UnsupportedModelError: An architecture, format or tokenizer that does not run here.
            TokenizerError: The file's vocabulary is broken.
            InvalidOptionError: An argument is outside its range or does not exist.
            ConversionError: ``quantize`` failed.
            CudaError: ``attention`` is "cuda", and there is no card that can be used.
            KernelError: Kernels cannot be compiled or loaded, or the shipped ones do not fit.

        Example:
            >>> from edgellama import Llama
            >>> llama = Llama("smollm2", context_length=512, kv_type="q8_0", num_threads=2)
            >>> llama.context_length
            512
            >>> llama.close()
        """
        check_names(unknown, tuple(OpenModel.__init__.__kwdefaults__ or ()), elsewhere=ELSEWHERE)
        self._line = WaitingLine(max_concurrent)
        mode = speculation_mode(speculation)
        self._own_draft: OpenModel | None = None
        self._model = self._load(
            path_or_name,
            context_length=context_length,
            num_threads=num_threads,
            kv_type=kv_type,
            quantize=quantize,
            cache_limit=cache_limit,
            exact=exact,
            rope_scaling=rope_scaling,
            attention=AttentionChoice(attention, gpu, gpu_memory),
            low_priority=low_priority,
            idle_seconds=idle_seconds,
            progress=progress,
            compile_usual=compile_usual,
        )
        self._engine, self._file = self._model.engine, self._model.file
        self._tokenizer = self._model.tokenizer
        try:
            drafting = self._draft_engine(draft, low_priority, idle_seconds)
        except BaseException:
            self._engine.close()
            self._file.close()
            raise
        self._speculation = Speculation(self._engine, "auto" if mode is None else mode, drafting)
        self._sessions = Living[Session]()
        self._sessions_lock = threading.RLock()
        self._closed = False
        call_after_fork(self._lose_threads)

    def _lose_threads(self) -> None:
        """In a forked process only the thread is left that has forked."""
        self._sessions_lock = threading.RLock()
        self._line.lose_threads()
        for session in self._sessions:
            session._lose_threads()

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self._engine.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns text into token ids and back: ``len(llama.tokenizer.encode(text))`` counts them."""
        return self._tokenizer

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the model's file, by GGUF key."""
        return self._file.metadata

    @property
    def context_length(self) -> int:
        """How many tokens each session holds."""
        return self._model.context_length

    @property
    def sampling_defaults(self) -> SamplingArguments:
        """The sampling options that the file recommends, such as ``{"temperature": 0.6}``; empty if
        it recommends none. Chats use them by default.
        """
        from edgellama.quant.sampling_keys import recommended_sampling

        return cast("SamplingArguments", recommended_sampling(self._file.metadata))

    @property
    def card_use(self) -> CardUse | None:
        """How a graphics card is used: its name, the memory taken, and why it is not used, if so.
        None if ``attention`` is "cpu".
        """
        return self._engine.card_use

    def read_speed(self) -> float:
        """Measure how many bytes of the weights the threads read per second, without computing.

        No reply can be faster than the weights are read for each token. Texts wait meanwhile. A
        small model may lie in the processor's caches, and is then read faster than memory.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=128) as llama:
            ...     llama.read_speed() > 1e8
            True
        """
        from edgellama.measure.plain_read import PlainRead

        with self._sessions_lock:
            self._check_open()
        plain = PlainRead(self._engine_here("read_speed"))
        return plain.num_bytes / min(plain.seconds() for _ in range(3))

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        length = f"context_length={self.context_length}"
        return f"<{type(self).__name__} {os.fspath(self._file.path)!r}, {length}{state}>"

    def close(self) -> None:
        """End all sessions and release everything, the mapped file too; calling it twice is fine.

        Sessions and other objects of the model raise EdgellamaError when they are used afterwards.
        ``config``, ``metadata`` and ``tokenizer`` stay usable.

        Example:
            >>> from edgellama import Llama
            >>> llama = Llama("smollm2", context_length=128)
            >>> llama.close()
            >>> llama.generate("Hello")
            Traceback (most recent call last):
            edgellama.quant.errors.EdgellamaError: this model is closed
        """
        with self._sessions_lock:
            self._closed = True
            sessions = list(self._sessions)
        for session in sessions:
            session._cancel()
        # Their threads may be running a long step of somebody else, which no session can end.
        for engine in self._engines:
            engine.stop_step()
        for session in sessions:
            session.close()
        self._engine.close()
        self._file.close()
        if self._own_draft is not None:
            self._own_draft.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _load(self, path_or_name: str | os.PathLike[str], **how: Any) -> ModelParts:
        """The model's parts; a class whose engine runs elsewhere has its own."""
        from edgellama.loading import load_model

        return load_model(path_or_name, **how)

    def _draft_engine(
        self,
        draft: str | os.PathLike[str] | OpenModel | None,
        low_priority: bool,
        idle_seconds: float | None,
    ) -> TextEngine | None:
        """The engine of a draft model, loaded if need be, with its vocabulary checked."""
        if draft is None:
            return None
        model = draft
        if not isinstance(model, OpenModel):
            limit = self.cache_limit
            model = self._own_draft = OpenModel(
                model,
                context_length=self.context_length,
                num_threads=self.num_threads,
                cache_limit=0,
                attention="cpu",
                low_priority=low_priority,
                idle_seconds=idle_seconds,
            )
            self.cache_limit = limit
        try:
            model._check_open()
            from edgellama.generation.speculation.same_vocabulary import check_same_vocabulary

            check_same_vocabulary(
                (self._tokenizer, self.metadata), (model.tokenizer, model.metadata)
            )
        except BaseException:
            if self._own_draft is not None:
                self._own_draft.close()
            raise
        return model._engine

    def _check_open(self) -> None:
        if self._closed:
            raise EdgellamaError("this model is closed")
