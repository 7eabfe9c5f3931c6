"""edgellama: chat with a quantized Llama on your own CPU.

    from edgellama import Llama

    with Llama("smollm2") as llama, llama.chat() as chat:
        print(chat.send("Why is the sky blue?").text)

Names are imported when they are first used, so that importing the package costs nothing.
"""

TYPE_CHECKING = False  # Which type checkers take for true; ``typing`` costs more than all of this.

if TYPE_CHECKING:
    from edgellama.engine.card.use import CardUse
    from edgellama.engine.engine import Engine
    from edgellama.engine.pages.kv_cache import KVCache
    from edgellama.engine.program.hooks import StepRows
    from edgellama.engine.scheduling.cancellation import CancelToken
    from edgellama.engine.weights.adapter import Adapter
    from edgellama.generation.batches.batch import AsyncBatch, Batch
    from edgellama.generation.chat.conversation import Conversation
    from edgellama.generation.judging.embedding import Embedding, EmbedOptions
    from edgellama.generation.judging.moderation import Moderation
    from edgellama.generation.judging.rank_prompt import RerankOptions
    from edgellama.generation.judging.reranking import Ranked
    from edgellama.generation.judging.scoring import Classification, Score
    from edgellama.generation.results import Chunk, Generation, Statistics, TokenLogprob, Usage
    from edgellama.generation.sessions.async_stream import AsyncStream
    from edgellama.generation.sessions.session import Session
    from edgellama.generation.sessions.stream import Stream
    from edgellama.generation.text_options import (
        BatchOptions,
        ChatOptions,
        PromptOptions,
        TextOptions,
    )
    from edgellama.llama import Llama
    from edgellama.measure.file_footprint import predict_footprint
    from edgellama.measure.footprint import Footprint
    from edgellama.models.pulling import pull
    from edgellama.quant.errors import (
        CacheError,
        ConstraintError,
        ContextLengthError,
        ConversionError,
        CudaError,
        CudaLostError,
        CudaMemoryError,
        DownloadError,
        EdgellamaError,
        GenerationCancelled,
        InvalidOptionError,
        KernelError,
        ModelFileError,
        ModelNotFoundError,
        ResumeError,
        SessionFileError,
        StageLostError,
        TemplateError,
        TokenizerError,
        UnsupportedModelError,
    )
    from edgellama.quant.gguf.file import GGUFFile
    from edgellama.quant.model_config import ModelConfig
    from edgellama.sampling.options import SamplingOptions
    from edgellama.text.chat_template import ChatTemplate
    from edgellama.text.guard_prompts import SafetyCategory
    from edgellama.text.tokenizer import Tokenizer, load_tokenizer
    from edgellama.text_pipeline import TextGenerationPipeline, pipeline
    from edgellama.tools.call_pieces import CallPiece
    from edgellama.tools.tool import Tool, ToolCall

__version__ = "0.1.0"
"""The version of this package, as ``pip show edgellama`` tells it."""

_MODULES = {
    "Adapter": "edgellama.engine.weights.adapter",
    "AsyncBatch": "edgellama.generation.batches.batch",
    "AsyncStream": "edgellama.generation.sessions.async_stream",
    "Batch": "edgellama.generation.batches.batch",
    "BatchOptions": "edgellama.generation.text_options",
    "CacheError": "edgellama.quant.errors",
    "CallPiece": "edgellama.tools.call_pieces",
    "CancelToken": "edgellama.engine.scheduling.cancellation",
    "CardUse": "edgellama.engine.card.use",
    "ChatOptions": "edgellama.generation.text_options",
    "ChatTemplate": "edgellama.text.chat_template",
    "Chunk": "edgellama.generation.results",
    "ConstraintError": "edgellama.quant.errors",
    "ContextLengthError": "edgellama.quant.errors",
    "ConversionError": "edgellama.quant.errors",
    "CudaError": "edgellama.quant.errors",
    "CudaLostError": "edgellama.quant.errors",
    "CudaMemoryError": "edgellama.quant.errors",
    "Conversation": "edgellama.generation.chat.conversation",
    "DownloadError": "edgellama.quant.errors",
    "EdgellamaError": "edgellama.quant.errors",
    "EmbedOptions": "edgellama.generation.judging.embedding",
    "Embedding": "edgellama.generation.judging.embedding",
    "Engine": "edgellama.engine.engine",
    "Footprint": "edgellama.measure.footprint",
    "GGUFFile": "edgellama.quant.gguf.file",
    "Generation": "edgellama.generation.results",
    "GenerationCancelled": "edgellama.quant.errors",
    "InvalidOptionError": "edgellama.quant.errors",
    "KVCache": "edgellama.engine.pages.kv_cache",
    "KernelError": "edgellama.quant.errors",
    "Llama": "edgellama.llama",
    "ModelConfig": "edgellama.quant.model_config",
    "ModelFileError": "edgellama.quant.errors",
    "ModelNotFoundError": "edgellama.quant.errors",
    "Moderation": "edgellama.generation.judging.moderation",
    "PromptOptions": "edgellama.generation.text_options",
    "Ranked": "edgellama.generation.judging.reranking",
    "RerankOptions": "edgellama.generation.judging.rank_prompt",
    "ResumeError": "edgellama.quant.errors",
    "SafetyCategory": "edgellama.text.guard_prompts",
    "SamplingOptions": "edgellama.sampling.options",
    "Session": "edgellama.generation.sessions.session",
    "SessionFileError": "edgellama.quant.errors",
    "StageLostError": "edgellama.quant.errors",
    "Statistics": "edgellama.generation.results",
    "StepRows": "edgellama.engine.program.hooks",
    "Stream": "edgellama.generation.sessions.stream",
    "TemplateError": "edgellama.quant.errors",
    "TextGenerationPipeline": "edgellama.text_pipeline",
    "TextOptions": "edgellama.generation.text_options",
    "Tokenizer": "edgellama.text.tokenizer",
    "TokenizerError": "edgellama.quant.errors",
    "Tool": "edgellama.tools.tool",
    "ToolCall": "edgellama.tools.tool",
    "UnsupportedModelError": "edgellama.quant.errors",
    "Classification": "edgellama.generation.judging.scoring",
    "Score": "edgellama.generation.judging.scoring",
    "TokenLogprob": "edgellama.generation.results",
    "Usage": "edgellama.generation.results",
    "load_tokenizer": "edgellama.text.tokenizer",
    "pipeline": "edgellama.text_pipeline",
    "predict_footprint": "edgellama.measure.file_footprint",
    "pull": "edgellama.models.pulling",
}

__all__ = [
    "Adapter",
    "AsyncBatch",
    "AsyncStream",
    "Batch",
    "BatchOptions",
    "CacheError",
    "CallPiece",
    "CancelToken",
    "CardUse",
    "ChatOptions",
    "ChatTemplate",
    "Chunk",
    "Classification",
    "ConstraintError",
    "ContextLengthError",
    "Conversation",
    "ConversionError",
    "CudaError",
    "CudaLostError",
    "CudaMemoryError",
    "DownloadError",
    "EdgellamaError",
    "EmbedOptions",
    "Embedding",
    "Engine",
    "Footprint",
    "GGUFFile",
    "Generation",
    "GenerationCancelled",
    "InvalidOptionError",
    "KVCache",
    "KernelError",
    "Llama",
    "ModelConfig",
    "ModelFileError",
    "ModelNotFoundError",
    "Moderation",
    "PromptOptions",
    "Ranked",
    "RerankOptions",
    "ResumeError",
    "SafetyCategory",
    "SamplingOptions",
    "Score",
    "Session",
    "SessionFileError",
    "StageLostError",
    "Statistics",
    "StepRows",
    "Stream",
    "TemplateError",
    "TextGenerationPipeline",
    "TextOptions",
    "TokenLogprob",
    "Tokenizer",
    "TokenizerError",
    "Tool",
    "ToolCall",
    "UnsupportedModelError",
    "Usage",
    "load_tokenizer",
    "pipeline",
    "predict_footprint",
    "pull",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
