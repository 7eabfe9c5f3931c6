"""Predicts from a model's header how much memory it will take: the peak of a whole process.

Weights are counted whole, as if every token of the vocabulary had been used, and keys and values as
if the context were full. The code that allocates caches, buffers and formats says how many bytes
they take.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

from edgellama.cuda.memory import taken_bytes
from edgellama.engine.pages.card_layout import CardPageLayout
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.engine.pages.page_layout import PageLayout
from edgellama.engine.program.buffers import StepBuffers, buffer_tokens
from edgellama.engine.program.step_sizes import step_tokens
from edgellama.engine.steps.rope import RopeTable
from edgellama.engine.weights.memory import round_up
from edgellama.engine.weights.weights import gates_at_once
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS, first_seen
from edgellama.kernels_cpu.machine.cpu import Tier
from edgellama.measure.model_outline import ModelOutline, VocabularySize
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.formats import FORMATS_BY_NAME, QUANTIZED_FORMATS, Format
from edgellama.quant.llama_tensors import FEED_FORWARD_MATRICES, ROPE_TENSORS
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.recipes import FormatOptions, choose_format, find_recipe
from edgellama.quant.records import dataclass

AS_IT_IS = "file"
"""The weight type of a file that is not converted."""
TENSOR_ALIGNMENT = 32
"""Bytes to which tensors are aligned in a GGUF file."""

# Measured on Linux x86-64 with CPython 3.11 and numpy 2.4, from /proc/self/smaps of processes
# that had prefilled and decoded: pages of shared libraries (half of them numpy's); the
# interpreter's own memory, with all modules of a chat; what a vocabulary added
# to it, by tokens and merges, for SmolLM2 (49 thousand), Llama 3 (128) and SentencePiece (32).
LIBRARY_BYTES = 23_600_000
INTERPRETER_BYTES = 20_000_000
TOKEN_BYTES = 16
SENTENCEPIECE_TOKEN_BYTES = 230
MERGE_BYTES = 12
ATTENTION_INPUTS = ("attn_q", "attn_k", "attn_v")
"""The matrices that read what the first norm of a layer leaves."""
LOGITS_COPIES = 3
"""Rows of logits at once for a text: the engine's, the caller's, and a sampler's work on it."""


USUAL_CONTEXT_LENGTH = 4096


def usual_context_length(config: ModelConfig) -> int:
    """Tokens of context where nobody says how many: as many as most chats need."""
    return min(config.context_length, USUAL_CONTEXT_LENGTH)


@dataclass(frozen=True)
class Footprint:
    """A prediction of memory in bytes, divided by purpose.

    It applies to weights of one ``type``, with ``bits_per_weight`` on average (a file's own if
    ``is_as_it_is``), and to ``num_texts`` texts at once, each in a session of ``context_length``
    tokens with keys and values of ``kv_types``. ``total_bytes`` is the sum of all ``parts``:
    ``weights_bytes``, ``kv_bytes`` of full contexts, ``activations_bytes``, ``vocabulary_bytes``,
    ``code_bytes`` of Python with its libraries, ``prompt_cache_bytes`` (the limit for earlier
    texts), ``draft_bytes`` (all of a draft model), and ``adapter_bytes``. ``card_bytes`` is memory
    on a graphics card, without the 200 to 400 MB that its driver takes there.

    Example:
        >>> from edgellama import predict_footprint
        >>> from edgellama.models.names import resolve
        >>> footprint = predict_footprint(resolve("smollm2"))
        >>> footprint.parts["weights"] == footprint.weights_bytes < footprint.total_bytes
        True
    """

    type: str
    kv_types: KVTypes
    context_length: int
    bits_per_weight: float
    weights_bytes: int
    kv_bytes: int
    activations_bytes: int
    vocabulary_bytes: int
    code_bytes: int
    prompt_cache_bytes: int = 0
    draft_bytes: int = 0
    adapter_bytes: int = 0
    card_bytes: int = 0
    num_texts: int = 1
    is_as_it_is: bool = False

    @property
    def parts(self) -> Mapping[str, int]:
        """Bytes by name, in the order of size for most models."""
        return {
            "weights": self.weights_bytes,
            "kv": self.kv_bytes,
            "activations": self.activations_bytes,
            "vocabulary": self.vocabulary_bytes,
            "code": self.code_bytes,
            "prompt_cache": self.prompt_cache_bytes,
            "draft": self.draft_bytes,
            "adapter": self.adapter_bytes,
        }

    @property
    def total_bytes(self) -> int:
        """The peak of the process, without the card's."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Machine:
    """What of a machine matters for memory."""

    tier: Tier
    num_threads: int


def predict(
    outline: ModelOutline,
    machine: Machine,
    *,
    type: str,
    kv_types: KVTypes,
    context_length: int,
    is_pure: bool = False,
    prompt_cache_bytes: int = 0,
    draft_bytes: int = 0,
    adapter_bytes: int = 0,
    on_card: bool = False,
    num_texts: int = 1,
) -> Footprint:
    """The footprint of a model as ``type`` (a recipe, or AS_IT_IS) with full contexts.

    ``prompt_cache_bytes``: the limit of what the beginnings of earlier texts may take.
    ``draft_bytes``, ``adapter_bytes``: what a draft model and adapters take.
    ``on_card``: keys and values lie on a graphics card.
    ``is_pure``: all matrices in the recipe's own format, as ``convert --pure`` writes them.
    ``num_texts``: how many contexts there are, of texts that run at once and share no page.

    Raises InvalidOptionError for unknown types and impossible lengths.
    """
    config = outline.config
    if context_length < 1:
        raise InvalidOptionError(f"context length {context_length}; it must be at least 1")
    pages = PageLayout.of(config, kv_types, machine.tier.lanes)
    is_as_it_is = type == AS_IT_IS
    return Footprint(
        type=outline.type or type if is_as_it_is else type,
        is_as_it_is=is_as_it_is,
        kv_types=kv_types,
        context_length=context_length,
        bits_per_weight=average_bits(outline, type, is_pure),
        weights_bytes=weights_bytes(outline, type, is_pure),
        kv_bytes=0
        if on_card
        else num_texts * pages.used_bytes(context_length, config.sliding_window),
        activations_bytes=activation_bytes(
            outline, machine, context_length, untouched_rows(outline, type, is_pure), num_texts
        ),
        vocabulary_bytes=vocabulary_bytes(outline.vocabulary),
        code_bytes=LIBRARY_BYTES + INTERPRETER_BYTES,
        prompt_cache_bytes=prompt_cache_bytes,
        draft_bytes=draft_bytes,
        adapter_bytes=adapter_bytes,
        card_bytes=card_bytes(config, kv_types, context_length, num_texts) if on_card else 0,
        num_texts=num_texts,
    )


def card_bytes(
    config: ModelConfig, kv_types: KVTypes, context_length: int, num_texts: int = 1
) -> int:
    """What full contexts take on a graphics card, with the queries of the largest step.

    Each page is taken by itself, in the blocks in which the driver gives memory.
    UnsupportedModelError for heads that cards do not take.
    """
    layout = CardPageLayout(
        kv_types.pair, config.block_count, config.head_count_kv, config.head_size
    )
    given_back = first_seen(context_length, config.sliding_window or context_length)
    num_pages = -(-context_length // PAGE_POSITIONS) - given_back // PAGE_POSITIONS
    queries_bytes = 4 * config.query_length * buffer_tokens(config)
    return num_texts * num_pages * taken_bytes(layout.page_bytes) + taken_bytes(queries_bytes)


def draft_model_bytes(
    outline: ModelOutline,
    machine: Machine,
    *,
    type: str,
    context_length: int,
    num_texts: int = 1,
) -> int:
    """What a draft model takes in the process of the model that it guesses for.

    Its keys and values are of 16 bits, whatever those of the model are.
    """
    alone = predict(
        outline,
        machine,
        type=type,
        kv_types=KVTypes.of("f16"),
        context_length=min(context_length, outline.config.context_length),
        num_texts=num_texts,
    )
    return alone.total_bytes - alone.code_bytes


def weights_bytes(outline: ModelOutline, type: str, is_pure: bool = False) -> int:
    """The whole file: header and tensors."""
    if type == AS_IT_IS and outline.file_bytes:
        return outline.file_bytes
    tensors = tensor_bytes(outline, type, is_pure).values()
    aligned = sum(round_up(num_bytes, TENSOR_ALIGNMENT) for num_bytes in tensors)
    return aligned + outline.vocabulary.header_bytes


def average_bits(outline: ModelOutline, type: str, is_pure: bool = False) -> float:
    """Bits per weight."""
    sizes = tensor_bytes(outline, type, is_pure)
    num_bytes = sum(size for name, size in sizes.items() if name not in ROPE_TENSORS)
    return 8 * num_bytes / outline.num_parameters


def tensor_bytes(outline: ModelOutline, type: str, is_pure: bool = False) -> Mapping[str, int]:
    """Bytes of every tensor by name."""
    shapes = outline.shapes
    return {
        name: math.prod(shapes[name][:-1]) * tensor_format.row_bytes(shapes[name][-1])
        for name, tensor_format in tensor_formats(outline, type, is_pure).items()
    }


def tensor_formats(outline: ModelOutline, type: str, is_pure: bool = False) -> Mapping[str, Format]:
    """The format of every tensor; those of the file itself for AS_IT_IS."""
    if type == AS_IT_IS and outline.formats is not None:
        return outline.formats
    config, options = outline.config, FormatOptions(find_recipe(type), is_pure=is_pure)
    return {
        name: FORMATS_BY_NAME["F32"]
        if name in ROPE_TENSORS
        else choose_format(
            name, dimensions, options, config, is_tied=outline.is_tied, has_imatrix=False
        )
        for name, dimensions in outline.shapes.items()
    }


def untouched_rows(outline: ModelOutline, type: str, is_pure: bool = False) -> set[str]:
    """The f32 rows of ``StepBuffers`` that long steps with weights of this type never write."""
    formats = tensor_formats(outline, type, is_pure)
    untouched = {"normed", "gate", "up"}
    for i in range(outline.config.block_count):
        gate, up, down, *others = (
            formats[f"blk.{i}.{name}.weight"].name
            for name in (*FEED_FORWARD_MATRICES, *ATTENTION_INPUTS)
        )
        if not gates_at_once(gate, up, down):
            untouched -= {"gate", "up"}
        if not {gate, up, *others} <= set(QUANTIZED_FORMATS):
            untouched -= {"normed"}
    return untouched


def activation_bytes(
    outline: ModelOutline,
    machine: Machine,
    context_length: int,
    untouched: Container[str],
    num_texts: int = 1,
) -> int:
    """What the largest step works in, a long one, or the context where that is shorter; and the
    logits of all texts."""
    config = outline.config
    row_numbers = RopeTable(config.rope).row_numbers
    buffers = StepBuffers(config, machine.tier, machine.num_threads, row_numbers)
    logits_bytes = 4 * LOGITS_COPIES * config.vocab_size * num_texts
    num_tokens = min(step_tokens(config), context_length)
    return buffers.used_bytes(num_tokens, untouched) + logits_bytes


def vocabulary_bytes(vocabulary: VocabularySize) -> int:
    """What the tokenizer holds once it has met a word that it must put together."""
    num_strings = vocabulary.num_tokens + vocabulary.num_merges
    # What byte pairs are parsed from does not stay in the mapped file, where it is counted.
    parsed = 8 * num_strings + (0 if vocabulary.is_byte_pair else vocabulary.header_bytes)
    token_bytes = TOKEN_BYTES if vocabulary.is_byte_pair else SENTENCEPIECE_TOKEN_BYTES
    merged = MERGE_BYTES * vocabulary.num_merges
    return parsed + token_bytes * vocabulary.num_tokens + merged
