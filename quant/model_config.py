"""What a GGUF file says about the model: sizes and constants of a Llama.

They are read from the metadata and checked against each other. The engine reads files by these
rules, and the converter checks by them what it will write. ``rope_config`` has positions,
``llama_tensors`` has tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgellama.quant.config_keys import MAX_SIZE, ConfigKeys
from edgellama.quant.errors import ModelFileError, UnsupportedModelError
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.gguf.kinds import check_model_kind
from edgellama.quant.records import dataclass
from edgellama.quant.rope_config import RopeConfig, read_rope
from edgellama.quant.ways import Way

HEAD_NORMED = ("qwen3", "qwen3vl")
"""Those of GGUF whose queries and keys have norms."""
HALF_SPLIT = ("qwen2", "qwen2vl", *HEAD_NORMED, "exaone", "pangu-embedded")
"""Those whose positions rotate an element of a head together with the one half a head behind it."""
ARCHITECTURES = (
    *("llama", "mistral3", "smollm3", "internlm2", "xverse", "ernie4_5"),
    *HALF_SPLIT,
)
"""Those whose models are Llamas, but for this, and for layers without positions."""
CONVERTIBLE = (
    *("qwen2", "qwen2vl", "qwen", "phi3", "exaone", "seed_oss", "pangu-embedded"),
    *("chatglm", "baichuan", "granite", "minicpm"),
)
"""Those that become a Llama's file without being quantized again."""
UNROTATED_STEPS = MappingProxyType({"smollm3": 4})
EMBEDDING = "token_embd.weight"


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a Llama, counted in elements, heads, layers or tokens.

    The vocabulary has ``vocab_size`` tokens; training saw texts of ``context_length`` tokens. There
    are ``block_count`` layers with ``embedding_length`` numbers per token, ``feed_forward_length``
    inside, and ``head_count`` query heads and ``head_count_kv`` key heads of ``head_size`` numbers.
    ``rms_epsilon`` belongs to the norms, ``rope`` describes the rotary positions. With
    ``sliding_window``, a token sees itself and the ``sliding_window - 1`` tokens before it, as in
    Mistral 7B v0.1; None means that it sees all. With ``unrotated_step``, every such layer has no
    positions, as in SmolLM3. With ``is_half_split``, the elements that are rotated together lie in
    the halves of a head, and not side by side. With ``has_head_norms``, heads of queries
    and keys have norms, as in Qwen 3.

    Example:
        >>> from edgellama import GGUFFile, ModelConfig, pull
        >>> with GGUFFile(pull("smollm2")) as file:
        ...     ModelConfig.from_gguf(file).block_count
        30
    """

    vocab_size: int
    context_length: int
    embedding_length: int
    block_count: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    head_size: int
    rms_epsilon: float
    rope: RopeConfig
    sliding_window: int | None = None
    unrotated_step: int | None = None
    is_half_split: bool = False
    has_head_norms: bool = False

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "context_length",
            "embedding_length",
            "block_count",
            "feed_forward_length",
            "head_count",
            "head_count_kv",
            "head_size",
        )
        for name in sizes:
            value = getattr(self, name)
            if not 1 <= value <= MAX_SIZE:
                raise ModelFileError(f"{name} is {value}; it must be from 1 to {MAX_SIZE}")
        if self.head_count % self.head_count_kv:
            raise ModelFileError(
                f"{self.head_count} query heads cannot share {self.head_count_kv} key heads evenly"
            )
        if self.rope.dimension_count > self.head_size:
            raise ModelFileError(
                f"rope rotates {self.rope.dimension_count} of {self.head_size} elements of a head"
            )
        if self.sliding_window is not None and not 1 <= self.sliding_window <= MAX_SIZE:
            raise ModelFileError(
                f"the sliding window is {self.sliding_window}; it must be from 1 to {MAX_SIZE}"
            )
        if not 0 < self.rms_epsilon < 1:
            raise ModelFileError(
                f"the norm's epsilon is {self.rms_epsilon}; it must be between 0 and 1"
            )

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key head."""
        return self.head_count // self.head_count_kv

    @property
    def query_length(self) -> int:
        """Elements of all query heads of one token."""
        return self.head_count * self.head_size

    @property
    def key_length(self) -> int:
        """Elements of all key heads, or of all value heads, of one token."""
        return self.head_count_kv * self.head_size

    def rotated_pairs(self, layer: int) -> int:
        """Pairs of elements of a head that positions rotate in a layer."""
        is_rotated = self.unrotated_step is None or (layer + 1) % self.unrotated_step
        return self.rope.dimension_count // 2 if is_rotated else 0

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ModelConfig:
        """The configuration of a model file.

        Raises UnsupportedModelError for another architecture, ModelFileError for missing or
        impossible values; both name the file.
        """
        embedding = file.tensors.get(EMBEDDING)
        try:
            return cls.from_metadata(file.metadata, embedding.shape[0] if embedding else None)
        except (ModelFileError, UnsupportedModelError) as error:
            raise error.within(file.path) from None

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, object], embedding_rows: int | None = None
    ) -> ModelConfig:
        """The configuration that metadata gives; errors as for a file, without its name.

        ``embedding_rows`` is what logits are made of, so it is the size of the vocabulary
        whatever the metadata says.
        """
        return _read(metadata, embedding_rows)


TO_LLAMA = Way(
    'Llama(FILE, quantize="copy") makes it a Llama\'s file without quantizing again',
    "make it a Llama's file without quantizing again: "
    "edgellama convert OLD.gguf NEW.gguf --type copy",
)


def _read(metadata: Mapping[str, object], embedding_rows: int | None) -> ModelConfig:
    keys = ConfigKeys(metadata)
    architecture = metadata.get("general.architecture")
    check_model_kind(metadata)
    if architecture not in ARCHITECTURES:
        from edgellama.quant.gguf.strangers import reason_of  # which is needed for errors alone

        raise UnsupportedModelError(
            f"architecture {architecture!r:.80} cannot run{reason_of(architecture)}; "
            f"supported: {', '.join(ARCHITECTURES)}",
            way=TO_LLAMA if architecture in CONVERTIBLE else None,
        )
    if keys.integer("expert_count", 0):
        raise UnsupportedModelError("mixtures of experts cannot run; supported: dense Llama models")
    width, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    head_size = keys.size("attention.key_length", width // heads)
    if keys.integer("attention.value_length", head_size) != head_size:
        raise UnsupportedModelError("keys and values of different sizes cannot run")
    context_length = keys.integer("context_length")
    rope = read_rope(keys, head_size, context_length)
    if rope.scaling == "dynamic":
        # The file gives the context without scaling, for programs that do not know it.
        context_length = int(context_length * rope.factor)
    return ModelConfig(
        vocab_size=keys.integer("vocab_size") if embedding_rows is None else embedding_rows,
        context_length=context_length,
        embedding_length=width,
        block_count=keys.integer("block_count"),
        feed_forward_length=keys.integer("feed_forward_length"),
        head_count=heads,
        head_count_kv=keys.integer("attention.head_count_kv", heads),
        head_size=head_size,
        rms_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        rope=rope,
        # Writers without a window leave the key out, or say 0.
        sliding_window=keys.integer("attention.sliding_window", 0) or None,
        unrotated_step=UNROTATED_STEPS.get(str(architecture)),
        is_half_split=architecture in HALF_SPLIT,
        has_head_norms=architecture in HEAD_NORMED,
    )
