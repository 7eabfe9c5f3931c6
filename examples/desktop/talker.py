"""The thread that owns the model, so that the window never waits for it.

It takes commands from a queue and tells what happens as events. A reply is stopped from the
window's own thread, by cancelling its stream.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from events import (
    Ask,
    Busy,
    Command,
    Event,
    Failed,
    FindModels,
    Loaded,
    LoadModel,
    ModelChoice,
    ModelsFound,
    Piece,
    Quit,
    Replied,
)

from edgellama import ChatOptions, EdgellamaError, Llama, Stream, predict_footprint
from edgellama.models.library import stored_models


class Talker:
    """One model and one reply at a time. ``tell`` is called on the talker's thread."""

    def __init__(self, tell: Callable[[Event], None], folder: Path | None = None) -> None:
        """``folder``: where an application has models of its own, beside the user's."""
        self._tell = tell
        self._folder = folder
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._llama: Llama | None = None
        self._stream: Stream | None = None
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="talker", daemon=True)
        self._thread.start()

    def ask(self, command: Command) -> None:
        """Have something done after what was asked for before; returns at once."""
        if isinstance(command, Ask):
            self._is_stopped.clear()
        self._commands.put(command)

    def stop(self) -> None:
        """End the running reply where it is; returns at once."""
        self._is_stopped.set()
        if (stream := self._stream) is not None:
            stream.cancel()

    def close(self, timeout: float = 5.0) -> None:
        """End the thread, after the op that runs."""
        self.stop()
        self._commands.put(Quit())
        self._thread.join(timeout)

    def _work(self) -> None:
        while not isinstance(command := self._commands.get(), Quit):
            try:
                if isinstance(command, FindModels):
                    self._tell(ModelsFound(tuple(self._choices(command.context_length))))
                elif isinstance(command, LoadModel):
                    self._load(command)
                else:
                    self._answer(command)
            except (EdgellamaError, OSError) as error:
                self._tell(Failed(str(error)))
        if self._llama is not None:
            self._llama.close()

    def _choices(self, context_length: int) -> list[ModelChoice]:
        paths = {model.name: model.path for model in stored_models()}
        if self._folder is not None:
            paths |= {path.stem: path for path in sorted(self._folder.glob("*.gguf"))}
        return [choice_of(name, path, context_length) for name, path in paths.items()]

    def _load(self, command: LoadModel) -> None:
        self._tell(Busy(f"Loading {command.path.stem}"))
        if self._llama is not None:
            self._llama.close()
            self._llama = None
        self._llama = Llama(
            command.path,
            context_length=command.context_length,
            progress=lambda done, total: self._tell(Busy("Preparing this computer", done, total)),
        )
        self._tell(Loaded(command.path))

    def _answer(self, command: Ask) -> None:
        if self._llama is None:
            raise EdgellamaError("no model is loaded; choose one at the top")
        options: ChatOptions = {
            "max_tokens": command.max_tokens,
            "on_prefill": lambda done, total: self._tell(Busy("Reading", done, total)),
        }
        if command.temperature is not None:
            options["temperature"] = command.temperature
        with self._llama.chat(messages=command.messages, **options) as chat:
            with chat.regenerate() as stream:
                self._stream = stream
                # A stop before there was a stream was meant for this one.
                if self._is_stopped.is_set():
                    stream.cancel()
                for chunk in stream:
                    if chunk.text:
                        self._tell(Piece(chunk.text))
            self._stream = None
        result = stream.result
        speed = result.statistics.decode_tokens_per_second
        self._tell(Replied(result.text, result.finish_reason, speed))


def choice_of(name: str, path: Path, context_length: int) -> ModelChoice:
    """A model with what it will take; damaged files have no size."""
    num_bytes = None
    with suppress(EdgellamaError, OSError):
        num_bytes = predict_footprint(path, context_length=context_length).total_bytes
    return ModelChoice(name, path, num_bytes)
