"""A model as its texts use it: sessions, adapters beside the weights, hooks in the steps.

``open_model`` holds the model, and ``generation`` generates the texts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping

import edgellama
from edgellama.engine.program.hooks import HookPlace, RowFunction, RowHook, layer_numbers
from edgellama.engine.weights.adapter import Adapter
from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.sessions.session import Session
from edgellama.open_model import OpenModel
from edgellama.quant.errors import InvalidOptionError, UnsupportedModelError
from edgellama.text.named_templates import missing_template


class SessionModel(OpenModel):
    """An open model with its sessions, adapters and hooks."""

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions that are open now, including those of running calls."""
        with self._sessions_lock:
            return tuple(session for session in self._sessions if not session.closed)

    def load_adapter(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Adapter:
        """Load a LoRA adapter for texts to use; the model itself stays as it is.

        Give it to sessions or single texts by ``adapters=``, with a scale, beside any number of
        others. The file stays mapped, like the model's.

        Arguments:
            path: A file written by ``edgellama convert-lora`` or by llama.cpp's converter.
            name: Its name in ``adapters=``. None (the default) is the file's name without its
                ending.
            progress: Called as ``progress(compiled, total)`` while kernels are compiled; not at
                all when none must be. None (the default) tells nobody.

        Returns:
            The adapter, with its ``name``, ``ranks`` and ``num_matrices``.

        Raises:
            ModelNotFoundError: No such file.
            ModelFileError: The file is damaged, or an adapter of another model.
            UnsupportedModelError: It is no plain LoRA adapter of a Llama.
            InvalidOptionError: The name is taken.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama:  # doctest: +SKIP
            ...     french = llama.load_adapter("french.gguf")
            ...     text = llama.generate("Once upon", adapters={french: 0.8}).text
        """
        self._check_open()
        return self._engine.adapters.load(path, name, progress)

    def unload_adapter(self, adapter: Adapter | str) -> None:
        """Unload an adapter; its name is free then.

        Texts that use it continue; its memory is given back when the last of them ends.

        Arguments:
            adapter: The adapter that ``load_adapter`` returned, or its name.

        Raises:
            InvalidOptionError: No such adapter is loaded.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama:  # doctest: +SKIP
            ...     llama.load_adapter("french.gguf")
            ...     llama.unload_adapter("french")
        """
        self._engine.adapters.unload(adapter)

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The loaded adapters, by name."""
        return self._engine.adapters.loaded

    def session(
        self, *, context_length: int | None = None, adapters: AdapterScales | None = None
    ) -> Session:
        """Open a session, whose KV cache keeps its tokens between calls.

        Arguments:
            context_length: How many tokens it can hold, from 1. None (the default) is the
                ``context_length`` that the model was loaded with.
            adapters: Loaded adapters, or their names, with scales, such as ``{"french": 0.5}``,
                for all its texts; ``session.adapters`` changes them. None (the default) is none.

        Returns:
            The session, a context manager. Closing it gives its memory back.

        Raises:
            InvalidOptionError: A length below 1, an adapter that is not loaded.
            EdgellamaError: The model is closed.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2") as llama, llama.session(context_length=128) as session:
            ...     first = session.generate("Once upon", max_tokens=1, temperature=0)
            ...     again = session.generate("Once upon a time", max_tokens=1, temperature=0)
            >>> again.statistics.prefilled_tokens < again.prompt_tokens
            True
        """
        with self._sessions_lock:
            self._check_open()
            session = Session(
                self._engine,
                self.tokenizer,
                context_length=self.context_length if context_length is None else context_length,
                kv_type=self._model.kv_type,
                adapters=adapters,
                siblings=self._sessions,
                line=self._line,
                speculation=self._speculation,
            )
        return session

    def add_hook(
        self,
        function: RowFunction,
        place: HookPlace = "residual",
        *,
        layers: Collection[int] | None = None,
    ) -> RowHook:
        """Let a function see and change numbers inside every step from now on.

        Arguments:
            function: Called as ``function(rows, step)`` on the thread that computes, with f32
                ``rows`` (tokens, width) that may be changed in place. ``step`` says which
                ``tokens``, ``positions`` and ``sequences`` they belong to.
            place: "residual" (the default), the residual stream after a layer; "attention", what
                queries, keys and values of a layer are made of; "logits".
            layers: Numbers of layers, from 0; None (the default) for all of them.

        Returns:
            The hook, for ``remove_hook``. Texts computed earlier are not used for new ones.

        Raises:
            InvalidOptionError: An unknown place, or layers that there are not.

        Example:
            >>> import numpy as np
            >>> from edgellama import Llama, StepRows
            >>> def silence(rows: np.ndarray, step: StepRows) -> None:
            ...     rows[:, 0] = -1000.0
            >>> with Llama("smollm2", context_length=64) as llama:
            ...     hook = llama.add_hook(silence, "logits")
            ...     llama.remove_hook(hook)
        """
        hook = RowHook(function, place, layer_numbers(layers))
        hook.check_layers(self.config.block_count)
        self._engine.hooks = (*self._engine.hooks, hook)
        return hook

    def remove_hook(self, hook: RowHook) -> None:
        """Remove a hook, so that its function is called no more.

        Arguments:
            hook: The hook that ``add_hook`` returned.

        Raises:
            InvalidOptionError: This model has no such hook.

        Example: see ``add_hook``.
        """
        hooks = [other for other in self._engine.hooks if other is not hook]
        if len(hooks) == len(self._engine.hooks):
            raise InvalidOptionError("this model has no such hook; give what add_hook returned")
        self._engine.hooks = tuple(hooks)

    def load_session(
        self,
        path: str | os.PathLike[str],
        *,
        context_length: int | None = None,
        adapters: AdapterScales | None = None,
        verify: bool = False,
    ) -> Session:
        """Open a saved session, which continues at once.

        Arguments:
            path: A file that ``Session.save`` wrote for the same model and KV type, on any CPU.
            context_length: How many tokens it can hold, from 1. None (the default) is the
                ``context_length`` that the model was loaded with.
            adapters: The adapters that it was saved with, with the same scales. None (the default)
                is none.
            verify: Read all keys and values now and compare their checksums. False (the default)
                takes them as they are; damaged ones can change texts, but nothing else.

        Returns:
            The session, a context manager. Prompts that begin with its ``tokens`` continue from
            there.

        Raises:
            SessionFileError: No such file, a damaged one, or one of another model, KV type or
                adapters.
            ContextLengthError: It has more tokens than the context.
            OSError: It cannot be read.
            EdgellamaError: The model is closed.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> from edgellama import Llama
            >>> file = Path(tempfile.mkdtemp()) / "story.session"
            >>> with Llama("smollm2", context_length=512) as llama:
            ...     with llama.session() as session:
            ...         first = session.generate("Once upon a time", max_tokens=8)
            ...         session.save(file)
            ...     with llama.load_session(file) as session:
            ...         len(session.tokens) >= first.prompt_tokens
            True
        """
        session = self.session(context_length=context_length, adapters=adapters)
        try:
            session.load(path, verify=verify)
        except BaseException:
            session.close()
            raise
        return session

    def _chat_template(self, given: str | None) -> edgellama.ChatTemplate:
        from edgellama.text.chat_template import given_template, load_chat_template

        if given is not None:
            return given_template(given, self.tokenizer)
        template = load_chat_template(self._file.metadata, self.tokenizer)
        if template is None:
            raise UnsupportedModelError(
                f"{self._file.path}: the file has no chat template", way=missing_template()
            )
        return template
