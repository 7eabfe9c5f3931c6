"""``SpreadLlama``: everything that users do with a model, over stages on several machines.

``spread_engine`` runs the steps; texts are generated as in ``Llama``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgellama.cluster.driver.spread_engine import CHUNK_TOKENS, SpreadEngine
from edgellama.cluster.stages.stage_call import StageHandle
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.llama import Llama
from edgellama.loading import ModelParts
from edgellama.measure.footprint import usual_context_length
from edgellama.models.names import resolve
from edgellama.quant.gguf.file import GGUFFile, require_model
from edgellama.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from edgellama.generation.speculation.speculation import SpeculationMode

MakeStages = Callable[[GGUFFile], Sequence[StageHandle]]
"""Starts the stages of a model; what it is given is the driver's own file."""


class SpreadLlama(Llama):
    """A model whose layers run on stages; texts, chats, sessions and batches are a Llama's.

    Example:
        >>> from edgellama.cluster.stages.local_stage import LocalStage
        >>> from edgellama.cluster.spread_llama import SpreadLlama
        >>> from edgellama.cluster.stages.stage import Stage
        >>> def two_stages(file):
        ...     halves = range(15), range(15, 30)
        ...     return [LocalStage(lambda half=half: Stage(file, half)) for half in halves]
        >>> with SpreadLlama("smollm2", two_stages, context_length=512) as llama:
        ...     llama.generate("The capital of France is", max_tokens=2, temperature=0).text
        ' Paris.'
    """

    def __init__(
        self,
        path_or_name: str | os.PathLike[str],
        make_stages: MakeStages,
        *,
        context_length: int | None = None,
        kv_type: str = "f16",
        rope_scaling: str | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
        max_concurrent: int | None = None,
        speculation: SpeculationMode = "auto",
    ) -> None:
        """Read the vocabulary here, and let ``make_stages`` start the stages.

        ``kv_type`` and ``rope_scaling`` say what the stages compute with; ``context_length`` None
        is 4096 tokens or the model's own length. The rest is as for ``Llama`` and SpreadEngine.
        """
        self._make_stages = make_stages
        self._chunk_tokens = chunk_tokens
        super().__init__(
            path_or_name,
            context_length=context_length,
            kv_type=kv_type,
            rope_scaling=rope_scaling,
            max_concurrent=max_concurrent,
            speculation=speculation,
        )

    @property
    def stages(self) -> Sequence[StageHandle]:
        """The stages in order."""
        return self._spread.stages

    @property
    def cached_bytes(self) -> int:
        """Bytes that the beginnings of earlier texts take now, on all stages."""
        return self._spread.beginnings.ended_bytes

    @property
    def is_loaded(self) -> bool:
        """True: stages hold their layers as long as the model is open."""
        return True

    def _load(self, path_or_name: str | os.PathLike[str], **how: Any) -> ModelParts:
        """The driver's parts of the model; what fails leaves nothing open."""
        types = KVTypes.of(how["kv_type"])
        file = GGUFFile(resolve(path_or_name))
        stages: Sequence[StageHandle] = ()
        try:
            require_model(file)
            tokenizer = load_tokenizer(file.metadata, file.path)
            stages = self._make_stages(file)
            self._spread = engine = SpreadEngine(
                file,
                stages,
                kv_type=str(types),
                rope_scaling=how["rope_scaling"],
                chunk_tokens=self._chunk_tokens,
            )
            length = how["context_length"] or usual_context_length(engine.config)
            num_texts = self._line.max_running or 1
            engine.beginnings.limit_bytes = num_texts * engine.bytes_of(length)
        except BaseException:
            for stage in stages:
                stage.close()
            file.close()
            raise
        return ModelParts(file, tokenizer, engine, length, str(types))
