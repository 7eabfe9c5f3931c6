"""The record that says how another architecture is a Llama: defaults, settings, tensors, its name.

``relatives`` is the table of these records; ``family`` checks whether the result is a Llama.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgellama.convert.model.names import without_inner_wrappers
from edgellama.convert.sources.json_fields import Fields
from edgellama.convert.sources.source_tensor import SourceTensor
from edgellama.quant.config_keys import USUAL_ARCHITECTURE

Tensors = Mapping[str, SourceTensor]
Settings = Mapping[str, object]
_NONE: Settings = MappingProxyType({})


def _same(tensors: Tensors, config: Fields) -> Tensors:
    return tensors


def _llama(config: Fields) -> str:
    return USUAL_ARCHITECTURE


def _no_settings(config: Fields) -> Settings:
    return _NONE


@dataclass(frozen=True)
class Relative:
    """How one architecture is a Llama.

    ``title``: what its models are called. ``kind``, ``model_type``: what it becomes. ``defaults``:
    what transformers takes for granted where config.json is silent, and a Llama's differs.
    ``settings``: fields of config.json that are other ones in the Llama. ``rewritten``: the tensors
    of the Llama, by the Llama's configuration. ``left_out``: the beginning of the names of tensors
    without which texts are the same. ``is_interleaved``: the rows of queries and keys are in GGUF's
    order already. ``architecture``: GGUF's name for what it becomes.
    """

    title: str
    kind: str = "LlamaForCausalLM"
    model_type: str = "llama"
    defaults: Settings = field(default_factory=dict)
    settings: Callable[[Fields], Settings] = _no_settings
    rewritten: Callable[[Tensors, Fields], Tensors] = _same
    left_out: str = ""
    is_interleaved: bool = False
    architecture: Callable[[Fields], str] = _llama

    @property
    def has_other_matrices(self) -> bool:
        """Whether an adapter of the checkpoint does not fit the Llama."""
        return self.rewritten is not _same or self.is_interleaved

    def own_config(self, config: Fields) -> Fields:
        """The architecture's configuration, with what it takes for granted."""
        # A null is kept where the architecture has a default: it then means something else than
        # that.
        null = {name: None for name in self.defaults if name in config.values}
        given = {name: value for name, value in config.values.items() if value is not None}
        return Fields({**self.defaults, **null, **given}, config.source, config.prefix)

    def llama_config(self, config: Fields) -> Fields:
        """The configuration of the Llama. Raises what ``settings`` does."""
        own = self.own_config(config)
        named = {"architectures": [self.kind], "model_type": self.model_type}
        return Fields({**own.values, **named, **self.settings(own)}, config.source, config.prefix)

    def llama_tensors(self, tensors: Tensors, config: Fields) -> Tensors:
        """The tensors of the Llama. Raises ModelFileError, and what ``settings`` does."""
        kept = {name: tensor for name, tensor in tensors.items() if not self._is_left_out(name)}
        plain = {without_inner_wrappers(name): tensor for name, tensor in kept.items()}
        # Names that are one without their wrappers stay apart, so that the layout can report them.
        named = plain if len(plain) == len(kept) else kept
        return self.rewritten(named, self.llama_config(config))

    def notes(self, tensors: Tensors) -> tuple[str, ...]:
        """What the user should know of the tensors that are left out."""
        count = sum(map(self._is_left_out, tensors))
        if not count:
            return ()
        return (
            f"{count} tensors of {self.left_out}* are left out: they guess further tokens, and do "
            "not change the text",
        )

    def _is_left_out(self, name: str) -> bool:
        return bool(self.left_out) and without_inner_wrappers(name).startswith(self.left_out)
