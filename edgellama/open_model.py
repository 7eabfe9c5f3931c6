"""A model that is open: from a name to its parts, and what ends with it when it is closed.

What may be changed meanwhile is known to adjustable_model; what is done with it is left to
session_model, retrieval_model, judging_model and llama.
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
from edgellama.engine.engine import Engine
from edgellama.engine.idle_watch import IdleWatch, check_idle_seconds
from edgellama.engine.kv_types import KVTypeChoice
from edgellama.generation.concurrency.waiting_line import WaitingLine
from edgellama.generation.sessions.living import Living
from edgellama.generation.sessions.session import Session
from edgellama.generation.speculation.speculation import (
    Speculation,
    SpeculationMode,
    speculation_mode,
)
from edgellama.loading import LoadedModel
from edgellama.quant.errors import EdgellamaError
from edgellama.quant.given_values import check_names
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.sampling_keys import recommended_sampling
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
            context_length: Tokens that each session holds, prompt and generated text together,
                from 1. None (the default) is the model's own length, less where memory is short.
            num_threads: Threads that compute, 1 to 256. None (the default) is one per physical
                core, or what EDGELLAMA_NUM_THREADS says.
            kv_type: Number type of the KV cache: "f32", "f16" (the default), "bf16", "q8_0" or
                "q4_0"; two of them for keys and for values, as ("q8_0", "q4_0") or "q8_0/q4_0".
            quantize: Type that the model is converted to before it is loaded, such as "q4_k_m".
                The result is kept in the user's cache, so that only the first time takes long.
                None (the default) loads the file as it is.
            cache_limit: Bytes, from 0, that keys and values of earlier texts may take, so that
                what begins like them is not computed again; a draft model has its part of them.
                None (the default) is a quarter of the memory that is free now.
            exact: Whether a text is the same bit for bit alone, computed beside others, after a
                fork and from earlier texts. False by default, because it costs speed.
            rope_scaling: How positions are scaled, so that the model reads further than it was
                trained for: "yarn:4", "dynamic:2" or "linear:4", each with how many times as far,
                or "none". None (the default) is as the file says, which is right for models that
                were made for long contexts.
            attention: Where attention is computed, and keys and values lie: "cpu", "cuda" (on an
                NVIDIA card), or "auto" (the default): on a card from the length on from which
                that is faster on this machine, on the CPU without one. Weights stay here.
            gpu: Which card, counted from 0; None (the default) is the first that can be used.
            gpu_memory: Bytes of the card's memory that may be used; None (the default) is all.
            speculation: Guess tokens ahead out of the text itself and check several in a step,
                which is faster where a text repeats something and never changes what it says.
                "auto" (the default) does so unless hooks would see the guesses; True always,
                False never. A text may have its own.
            draft: A smaller model of the same vocabulary that guesses where the text repeats
                nothing: a path or a name, or a ``Llama``, which stays the caller's. None (the
                default) is none.
            progress: Called as ``progress(compiled, total)`` while kernels are compiled; not at
                all when none must be.
            compile_usual: If any kernel must be compiled, compile those of other usual models and
                caches in the background, so that later ones need not wait. False by default. Those
                that check guesses are compiled there in any case.
            max_concurrent: Texts that run at once, as the property; None (the default) is no limit.
            low_priority: Whether other programs come first, as the property. False by default.
            idle_seconds: After so long without a text the memory is given back, as by ``unload``.
                None (the default) is never.
            unknown: Nothing; other names are refused, with the one that may be meant.

        Raises:
            ModelNotFoundError: No such file, or a name that was not pulled.
            ModelFileError: The file is damaged, incomplete or no GGUF file.
            UnsupportedModelError: An architecture, format or tokenizer that does not run here.
            TokenizerError: The file's vocabulary is broken.
            InvalidOptionError: An argument outside its range, or one that there is not.
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
        check_idle_seconds(idle_seconds)
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
        self._idle_watch = IdleWatch(self._engine, idle_seconds)

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
        """Everything that the file says about the model, by GGUF key."""
        return self._file.metadata

    @property
    def context_length(self) -> int:
        """How many tokens each session holds."""
        return self._model.context_length

    @property
    def sampling_defaults(self) -> SamplingArguments:
        """The sampling that the file recommends, by option, such as ``{"temperature": 0.6}``.

        Empty where it recommends none. Chats use it unless they are told otherwise.
        """
        return cast("SamplingArguments", recommended_sampling(self._file.metadata))

    @property
    def card_use(self) -> CardUse | None:
        """How a graphics card is used: its name, its memory that is taken, what is in the way.

        None where ``attention`` is "cpu".
        """
        return self._engine.card_use

    def read_speed(self) -> float:
        """Bytes of the weights that the threads read in a second, if they compute nothing.

        No reply comes faster than its tokens' bytes are read. Steps of texts wait for it. A small
        model may lie in the processor's own caches, and is read faster than memory then.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=128) as llama:
            ...     llama.read_speed() > 1e8
            True
        """
        from edgellama.measure.plain_read import PlainRead

        with self._sessions_lock:
            self._check_open()
        plain = PlainRead(self._engine)
        return plain.num_bytes / min(plain.seconds() for _ in range(3))

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        length = f"context_length={self.context_length}"
        return f"<{type(self).__name__} {os.fspath(self._file.path)!r}, {length}{state}>"

    def close(self) -> None:
        """End all sessions and give everything back, the mapped file too; more calls do nothing.

        Whatever was made from the model raises EdgellamaError when it is used afterwards;
        ``config``, ``metadata`` and ``tokenizer`` stay.

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
        self._idle_watch.close()
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

    def _load(self, path_or_name: str | os.PathLike[str], **how: Any) -> LoadedModel:
        """The model's parts; a class whose engine runs elsewhere has its own."""
        from edgellama.loading import load_model

        return load_model(path_or_name, **how)

    def _draft_engine(
        self,
        draft: str | os.PathLike[str] | OpenModel | None,
        low_priority: bool,
        idle_seconds: float | None,
    ) -> Engine | None:
        """The engine of a draft model, loaded if need be, with its vocabulary checked."""
        if draft is None:
            return None
        model = draft
        if not isinstance(model, OpenModel):
            limit = self.cache_limit
            model = self._own_draft = OpenModel(
                model,
                context_length=self.context_length,
                num_threads=self._engine.num_threads,
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
