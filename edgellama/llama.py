"""The facade: one model file, ready to generate, stream and chat.

It joins the file, the tokenizer, the engine and sessions; each of them can be used alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgellama.engine.context_memory import default_context_length
from edgellama.engine.kv_types import KVTypeChoice, KVTypes
from edgellama.generation.conversation import Conversation, ReplyOptions
from edgellama.generation.fitting import WhenFull
from edgellama.generation.results import Chunk, Generation, Statistics
from edgellama.generation.session import Session
from edgellama.generation.stream import Stream
from edgellama.kernels_cpu.machine.memory_use import available_memory_bytes
from edgellama.load_report import load_report
from edgellama.models.names import resolve
from edgellama.models.usage import note_use
from edgellama.quant.errors import EdgellamaError, InvalidOptionError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile, require_model
from edgellama.quant.sampling_keys import recommended_sampling
from edgellama.sampling.options import CHAT_SAMPLING, SamplingArguments
from edgellama.text.chat_template import ChatTemplate, given_template, load_chat_template
from edgellama.text.named_templates import missing_template
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from edgellama.quant.model_config import ModelConfig

__all__ = ["Chunk", "Conversation", "Generation", "Llama", "Session", "Statistics", "Stream"]

logger = logging.getLogger(__name__)


class Llama:
    """A model, loaded once and shared by any number of sessions and threads.

    A context manager; closing ends all of its sessions. The weights are pages of the file, which
    must therefore be replaced by renaming: rewritten or cut in place, it changes or ends
    (SIGBUS) the process.
    """

    def __init__(
        self,
        path_or_name: str | os.PathLike[str],
        *,
        context_length: int | None = None,
        num_threads: int | None = None,
        kv_type: KVTypeChoice = "f16",
        quantize: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        compile_usual: bool = False,
    ) -> None:
        """Load a GGUF file, given by path or by a name that ``edgellama pull`` knows.

        ``quantize``: a type such as "q4_0" that the model is converted to before it is loaded;
        needed for a folder with a checkpoint. The result is kept in the user's cache, so that
        only the first time takes long.
        ``context_length``: tokens that each session holds; None is the model's own, less where
        memory is short. ``num_threads`` None is one per physical core. ``kv_type`` is the KV
        cache's number type: "f32", "f16", "bf16", "q8_0" or "q4_0", or a pair of them for keys
        and for values, as ("q8_0", "q4_0") or "q8_0/q4_0". ``progress`` hears of (compiled,
        total) kernels if any must be compiled; with ``compile_usual`` those of other usual models
        and caches are then compiled too, so that later ones need not wait. Raises
        ModelNotFoundError, ModelFileError,
        UnsupportedModelError, TokenizerError, InvalidOptionError,
        ConversionError.
        """
        from edgellama.engine.engine import Engine
        from edgellama.engine.usual_kernels import usual_kernels

        started = time.perf_counter()
        types = KVTypes.of(kv_type)
        _check_context(context_length)
        path = _runnable_file(path_or_name, quantize, progress)
        note_use(path)
        self._file = GGUFFile(path)
        try:
            require_model(self._file)
            self.tokenizer: Tokenizer = load_tokenizer(self._file.metadata, self._file.path)
            self._engine = Engine(
                self._file,
                num_threads=num_threads,
                kv_type=str(types),
                progress=progress,
                companions=usual_kernels() if compile_usual else (),
            )
        except BaseException:
            self._file.close()
            raise
        if context_length is None:
            context_length = default_context_length(
                self._engine.config, types, available_memory_bytes()
            )
        self._context_length = context_length
        self._kv_type = str(types)
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._sessions_lock = threading.RLock()
        self._closed = False
        self._log_load(time.perf_counter() - started)

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self._engine.config

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Everything that the file says about the model, by GGUF key."""
        return self._file.metadata

    @property
    def context_length(self) -> int:
        """How many tokens each session holds."""
        return self._context_length

    @property
    def sampling_defaults(self) -> SamplingArguments:
        """The sampling that the file recommends, by option, such as ``{"temperature": 0.6}``.

        Empty where it recommends none. Chats use it unless they are told otherwise.
        """
        return cast("SamplingArguments", recommended_sampling(self._file.metadata))

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        parse_special: bool = False,
        **sampling: Unpack[SamplingArguments],
    ) -> Generation:
        """The text that follows ``prompt``, as it is; arguments and errors as for ``stream``."""
        return self.stream(
            prompt, max_tokens=max_tokens, stop=stop, parse_special=parse_special, **sampling
        ).wait()

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        parse_special: bool = False,
        **sampling: Unpack[SamplingArguments],
    ) -> Stream:
        """The same, piece by piece, in a session of its own.

        ``prompt`` is text or tokens; ``stop`` ends the text before any of these strings;
        ``parse_special`` reads control tokens in the text; ``sampling`` are the fields of
        SamplingOptions. Raises ContextLengthError and InvalidOptionError.
        """
        return self.session().stream(
            prompt, max_tokens=max_tokens, stop=stop, parse_special=parse_special, **sampling
        )

    def chat(
        self,
        system: str | None = None,
        *,
        messages: Sequence[Mapping[str, object]] | None = None,
        template: str | None = None,
        when_full: WhenFull = "drop",
        **options: Unpack[ReplyOptions],
    ) -> Conversation:
        """A new conversation in the model's own chat format, with its own session.

        ``messages``: what was said before, as dictionaries with ``role`` ("system", "user",
        "assistant") and ``content``; ``regenerate`` answers them if they end with the user's.
        ``template``: used instead of the file's, the name of a published format ("llama2",
        "llama3", "chatml", "mistral", "zephyr", "alpaca", "vicuna", "wizardlm", "koala",
        "openassistant", "guanaco") or Jinja source. ``when_full``: what happens once
        the messages fill the context, "drop" (the oldest turns), "stop" (the reply is empty) or
        "error" (ContextLengthError). ``options`` hold for every reply: ``max_tokens``, ``stop``
        and the fields of SamplingOptions. Sampling that is not given is what the file
        recommends (``sampling_defaults``); where it recommends nothing, a repetition penalty of
        1.1 and DRY keep small models from looping. Raises UnsupportedModelError if there is no
        template.
        """
        options = {**(self.sampling_defaults or CHAT_SAMPLING), **options}
        chosen = self._chat_template(template)
        return Conversation(
            self.session(),
            self.tokenizer,
            chosen,
            system=system,
            messages=messages,
            when_full=when_full,
            **options,
        )

    def session(self, *, context_length: int | None = None) -> Session:
        """A new session: its own KV cache over this model."""
        with self._sessions_lock:
            if self._closed:
                raise EdgellamaError("this model is closed")
            session = Session(
                self._engine,
                self.tokenizer,
                context_length=self._context_length if context_length is None else context_length,
                kv_type=self._kv_type,
            )
            self._sessions.add(session)
        return session

    def close(self) -> None:
        """End all sessions and give everything back; more calls do nothing."""
        with self._sessions_lock:
            self._closed = True
            sessions = list(self._sessions)
        for session in sessions:
            session.close()
        self._engine.close()
        self._file.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _log_load(self, seconds: float) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            for line in load_report(self._file, self._engine, self._kv_type, self._context_length):
                logger.debug(line)
            logger.debug("loaded in %.2f s", seconds)

    def _chat_template(self, given: str | None) -> ChatTemplate:
        if given is not None:
            return given_template(given, self.tokenizer)
        template = load_chat_template(self._file.metadata, self.tokenizer)
        if template is None:
            raise UnsupportedModelError(
                f"{self._file.path}: the file has no chat template", way=missing_template()
            )
        return template


def _runnable_file(
    path_or_name: str | os.PathLike[str],
    quantize: str | None,
    progress: Callable[[int, int], None] | None,
) -> Path:
    if quantize is None:
        return resolve(path_or_name)
    from edgellama.models.checkpoints import converted

    return converted(path_or_name, quantize, kernel_progress=progress)


def _check_context(context_length: int | None) -> None:
    """Refuse an impossible length before anything is loaded."""
    if context_length is not None and context_length < 1:
        raise InvalidOptionError(f"context_length is {context_length}; allowed: at least 1")
