"""Sizes and constants of a Llama, from config.json or params.json to GGUF's keys.

If the configuration does not say something, shapes of tensors or a table of the family's releases
decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgellama.convert import metadata
from edgellama.convert.metadata import MetadataItem
from edgellama.convert.model.rope_scaling import (
    Llama3Scaling,
    RopeScaling,
    read_scaling,
    rope_fields,
)
from edgellama.convert.sources.json_fields import MAX_SIZE, Fields
from edgellama.quant.errors import ModelFileError, UnsupportedModelError

MAX_BLOCKS = 4096
ROTATED = "edgellama_rotated"
WINDOWED_FROM, SCALED_FROM = "edgellama_windowed_from", "edgellama_scaled_from"
HEAD_NORMED = "edgellama_head_normed"
"""Fields of our own in the configurations that relatives of a Llama get: rotated elements of a
head; tokens beyond which some layers have a window, and positions another scale; whether queries
and keys have norms."""
# What config.json leaves out has these values in transformers.
_DEFAULT_CONTEXT = 2048
_DEFAULT_EPSILON = 1e-6
_DEFAULT_BASE = 10000.0

SCALED_POSITIONS = "positions of longer texts are scaled in a way"
SOME_WINDOWS = "in longer texts some layers attend to the last tokens alone, a window"
"""What GGUF has no keys for."""

Rows = Callable[[str], int | None]
"""Rows of the tensor with a GGUF name; None if there is none of two dimensions."""


@dataclass(frozen=True)
class HyperParameters:
    """The sizes of a Llama, counted in elements, heads, layers or tokens."""

    vocab_size: int
    context_length: int
    embedding_length: int
    block_count: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    head_size: int
    rms_epsilon: float
    rope_base: float
    scaling: RopeScaling = field(default_factory=RopeScaling)
    sliding_window: int | None = None
    rotated: int | None = None
    """Elements of a head that positions rotate; None for all."""
    limit: str | None = None
    """Why the context is shorter than the model's: what no key of GGUF tells."""
    has_head_norms: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.block_count <= MAX_BLOCKS:
            raise ModelFileError(f"{self.block_count} layers; needed: 1 to {MAX_BLOCKS}")
        if self.head_count % self.head_count_kv:
            raise ModelFileError(
                f"{self.head_count} query heads cannot share {self.head_count_kv} key heads evenly"
            )
        if self.head_size % 2 or self.head_size * self.head_count > MAX_SIZE:
            raise ModelFileError(
                f"{self.head_count} heads of {self.head_size} elements; needed: an even size, "
                f"together up to {MAX_SIZE}"
            )
        if self.rotated is not None and (self.rotated % 2 or self.rotated > self.head_size):
            raise ModelFileError(
                f"positions rotate {self.rotated} of {self.head_size} elements of a head; needed: "
                "an even number of them"
            )

    def items(self) -> dict[str, MetadataItem]:
        """The keys under ``llama.``, and that of dynamic scaling."""
        unsigned, number = metadata.unsigned, metadata.number
        items = {
            "llama.vocab_size": unsigned(self.vocab_size),
            "llama.context_length": unsigned(self.context_length),
            "llama.embedding_length": unsigned(self.embedding_length),
            "llama.block_count": unsigned(self.block_count),
            "llama.feed_forward_length": unsigned(self.feed_forward_length),
            "llama.attention.head_count": unsigned(self.head_count),
            "llama.attention.head_count_kv": unsigned(self.head_count_kv),
            "llama.attention.layer_norm_rms_epsilon": number(self.rms_epsilon),
            "llama.rope.dimension_count": unsigned(self.rotated or self.head_size),
            "llama.rope.freq_base": number(self.rope_base),
        }
        if self.head_size * self.head_count != self.embedding_length:
            items["llama.attention.key_length"] = unsigned(self.head_size)
            items["llama.attention.value_length"] = unsigned(self.head_size)
        if self.sliding_window is not None:
            items["llama.attention.sliding_window"] = unsigned(self.sliding_window)
        return items | self.scaling.items()


def head_size(config: Fields) -> int:
    """The elements of a head by a config.json, which may leave them to the width."""
    heads = config.size("num_attention_heads")
    return config.size("head_dim", max(1, config.size("hidden_size") // heads))


def hugging_face_hparams(config: Fields, rows: Rows) -> HyperParameters:
    """The sizes in a config.json."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if not config.has("head_dim") and width % heads:
        raise config.error("num_attention_heads", f"a divisor of hidden_size {width}, or head_dim")
    rope = rope_fields(config)
    length = _context_length(config)
    scaling = read_scaling(rope, length)
    length, limit = _limited(config, scaling.context_length(config, length))
    return _with_file_in_errors(
        config,
        lambda: HyperParameters(
            vocab_size=config.size("vocab_size", rows("token_embd.weight")),
            context_length=length,
            embedding_length=width,
            block_count=config.size("num_hidden_layers"),
            feed_forward_length=config.size("intermediate_size", rows("blk.0.ffn_gate.weight")),
            head_count=heads,
            head_count_kv=config.size("num_key_value_heads", heads),
            head_size=head_size(config),
            rms_epsilon=config.positive("rms_norm_eps", _DEFAULT_EPSILON),
            rope_base=rope.positive("rope_theta", config.positive("rope_theta", _DEFAULT_BASE)),
            scaling=scaling,
            sliding_window=_sliding_window(config) if _is_mistral(config) else None,
            rotated=config.size(ROTATED) if config.has(ROTATED) else None,
            limit=limit,
            has_head_norms=config.flag(HEAD_NORMED, False),
        ),
    )


def _limited(config: Fields, length: int) -> tuple[int, str | None]:
    """The context within which the model is a Llama, and what is other beyond it."""
    limit: str | None = None
    for name, reason in ((SCALED_FROM, SCALED_POSITIONS), (WINDOWED_FROM, SOME_WINDOWS)):
        if config.has(name) and config.size(name) < length:
            length, limit = config.size(name), reason
    return length, limit


def _context_length(config: Fields) -> int:
    names = ("max_position_embeddings", "max_sequence_length")
    name = next((name for name in names if config.has(name)), names[0])
    return config.size(name, _DEFAULT_CONTEXT)


def _is_mistral(config: Fields) -> bool:
    """Whether config.json is of a Mistral, whose window counts; a Llama has none."""
    model_type = config.text("model_type")
    return model_type == "mistral" or (
        model_type is None and "MistralForCausalLM" in config.items("architectures")
    )


def _sliding_window(config: Fields) -> int | None:
    """The window in tokens; None if there is none, which some say as 0 or -1."""
    if not config.flag("use_sliding_window", True) or config.values.get("sliding_window") in (
        0,
        -1,
    ):
        return None
    return config.size("sliding_window") if config.has("sliding_window") else None


def meta_hparams(params: Fields, rows: Rows) -> HyperParameters:
    """The sizes in a params.json; those that it leaves out from the tensors and the releases."""
    width, heads = params.size("dim"), params.size("n_heads")
    if not params.has("head_dim") and width % heads:
        raise params.error("n_heads", f"a divisor of dim {width}")
    silent = params.values.get("vocab_size") == -1
    vocab_size = rows("token_embd.weight") if silent else None
    release = meta_release(params)
    return _with_file_in_errors(
        params,
        lambda: HyperParameters(
            vocab_size=vocab_size or params.size("vocab_size", rows("token_embd.weight")),
            context_length=release.context_length,
            embedding_length=width,
            block_count=params.size("n_layers"),
            feed_forward_length=rows("blk.0.ffn_gate.weight") or 1,
            head_count=heads,
            head_count_kv=params.size("n_kv_heads", heads),
            head_size=params.size("head_dim", width // heads),
            rms_epsilon=params.positive("norm_eps"),
            rope_base=params.positive("rope_theta", _DEFAULT_BASE),
            scaling=release.scaling,
            sliding_window=_sliding_window(params),
        ),
    )


def meta_feed_forward_length(params: Fields) -> int:
    """What follows from a params.json where no tensor tells, as Meta's own model computes it."""
    if params.has("hidden_dim"):
        return params.size("hidden_dim")
    scale, multiple = params.positive("ffn_dim_multiplier", 1.0), params.size("multiple_of")
    wanted = int(scale * (8 * params.size("dim") // 3))
    return -(-wanted // multiple) * multiple


@dataclass(frozen=True)
class MetaRelease:
    """What params.json does not say: a release's context length, in tokens, scaling, and whether
    its output is tied to the embedding.
    """

    name: str
    context_length: int
    scaling: RopeScaling = field(default_factory=RopeScaling)
    tied: bool = False


_LLAMA_3_1 = RopeScaling(stretch=Llama3Scaling(8.0))
_LLAMA_3_2 = RopeScaling(stretch=Llama3Scaling(32.0))
_MISTRAL_CONTEXT = 32768
_LLAMA_1_EPSILON = 1e-6
_LLAMA_1_65B: Mapping[str, int] = {"dim": 8192, "n_layers": 80, "n_heads": 64}
_LLAMA_3_2_SIZES = ((2048, 16), (3072, 28))


def meta_release(params: Fields) -> MetaRelease:
    """Which release a params.json is from; Mistral's, in the same layout, have ``hidden_dim``.

    Later ones of these say how long their context is, and whether their output is tied. Llama 1
    has an epsilon of 1e-6, except its 65B, which alone has that width without shared key heads;
    Code Llama a base of 1e6, Llama 3 of 5e5; 3.1 to 3.3 scale positions, by 32 in the 1B and 3B
    models of 3.2 and by 8 in the others.
    """
    base = params.positive("rope_theta", _DEFAULT_BASE)
    if params.flag("use_scaled_rope", False):
        small = (params.size("dim"), params.size("n_layers")) in _LLAMA_3_2_SIZES
        return (
            MetaRelease("Llama 3.2", 131072, _LLAMA_3_2, tied=True)
            if small
            else MetaRelease("Llama 3.1", 131072, _LLAMA_3_1)
        )
    if params.has("hidden_dim"):
        length = params.size("max_seq_len", _MISTRAL_CONTEXT)
        length = params.size("max_position_embeddings", length)
        return MetaRelease("Mistral", length, tied=params.flag("tied_embeddings", False))
    if base == 1e6:
        return MetaRelease("Code Llama", 16384)
    if base == 5e5:
        return MetaRelease("Llama 3", 8192)
    if base != _DEFAULT_BASE:
        raise UnsupportedModelError(
            f"{params.source}: rope_theta {base:g} is of no known release, so its context length "
            "is unknown; supported: 1e4 (Llama 1, 2), 1e6 (Code Llama), 5e5 (Llama 3)"
        )
    is_65b = all(params.values.get(name) == size for name, size in _LLAMA_1_65B.items())
    if params.positive("norm_eps") == _LLAMA_1_EPSILON or (is_65b and not params.has("n_kv_heads")):
        return MetaRelease("Llama 1", 2048)
    return MetaRelease("Llama 2", 4096)


def _with_file_in_errors(config: Fields, build: Callable[[], HyperParameters]) -> HyperParameters:
    """What ``build`` gives; its errors name the file."""
    try:
        return build()
    except ModelFileError as error:
        message = str(error)
        if message.startswith(config.source):
            raise
        raise ModelFileError(f"{config.source}: {message}") from None
