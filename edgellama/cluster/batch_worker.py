"""One process's share of a batch: takes lines of prompts, returns lines of texts.

It knows nothing of Ray; ``ray_batch`` distributes the lines and collects the results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgellama.engine.model_identity import model_identity
from edgellama.engine.weights.adapter import Adapter
from edgellama.generation.batches.batch_lines import error_line, prompt_of, text_line
from edgellama.llama import Llama
from edgellama.models.names import resolve
from edgellama.quant.errors import EdgellamaError, ModelFileError
from edgellama.quant.gguf.file import GGUFFile

REFUSED = "refused"
"""The one key of a line that says why a worker cannot work at all."""


@dataclass(frozen=True)
class BatchTask:
    """What all workers do: the model as each machine knows it, and options of ``generate_batch``.

    ``identity``: the ``model_identity`` that the model's file must have. ``engine``: options of
    ``Llama``. ``adapters``: files with scales, at the same path everywhere. ``is_chat`` and
    ``system`` as for ``prompt_of``.
    """

    model: str
    identity: str
    width: int | None
    engine: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    adapters: Sequence[tuple[str, float]] = ()
    is_chat: bool = False
    system: str | None = None


class BatchWorker:
    """Makes texts of lines; its model is loaded with the first of them.

    Example:
        >>> from edgellama.cluster.batch_worker import BatchTask, BatchWorker
        >>> from edgellama.engine.model_identity import model_identity
        >>> from edgellama.models.names import resolve
        >>> from edgellama.quant.gguf.file import GGUFFile
        >>> with GGUFFile(resolve("smollm2")) as file:
        ...     identity = model_identity(file)
        >>> options = {"max_tokens": 2, "temperature": 0}
        >>> worker = BatchWorker(BatchTask("smollm2", identity, 4, options=options))
        >>> lines = ['{"id": 7, "prompt": "The capital of France is"}']
        >>> [json.loads(line)["text"] for line in worker({"line": lines})["line"]]
        [' Paris.']
    """

    def __init__(self, task: BatchTask) -> None:
        self._task = task

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Lines of texts and errors under "line", in any order, for those under "line"."""
        contents = [json.loads(line) for line in batch["line"]]
        ids = [content.pop("id") for content in contents]
        try:
            made = self._texts(ids, contents)
        except EdgellamaError as error:
            made = [{REFUSED: error.in_terminal}]
        # JSON of ASCII alone, which every transport keeps as it is.
        return {"line": np.array([json.dumps(line) for line in made], dtype=object)}

    def _texts(
        self, ids: Sequence[object], contents: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        task, (llama, adapters) = self._task, self._loaded
        made: list[dict[str, Any]] = []
        results = llama.generate_batch(
            (prompt_of(each, is_chat=task.is_chat, system=task.system) for each in contents),
            width=task.width,
            on_error=lambda index, error: made.append(error_line(ids[index], error)),
            adapters=adapters,
            **task.options,
        )
        made += [text_line(ids[result.index], result) for result in results]
        return made

    @cached_property
    def _loaded(self) -> tuple[Llama, dict[Adapter, float]]:
        """The model and its adapters; EdgellamaError for what this machine has instead."""
        path = resolve(self._task.model)
        with GGUFFile(path) as file:
            if (found := model_identity(file)) != self._task.identity:
                raise ModelFileError(
                    f"{path}: another model than the driver's (identity {found}; needed: "
                    f"{self._task.identity}); every machine needs the same file"
                )
        llama = Llama(path, **self._task.engine)
        return llama, {llama.load_adapter(path, path): s for path, s in self._task.adapters}
