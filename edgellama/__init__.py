"""edgellama: chat with a quantized Llama on your own CPU.

    from edgellama import Llama

    with Llama("smollm2") as llama, llama.chat() as chat:
        print(chat.send("Why is the sky blue?").text)

Names are imported when they are first used, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellama.cancellation import CancelToken
    from edgellama.chat_template import ChatTemplate
    from edgellama.conversation import Conversation
    from edgellama.engine import Engine
    from edgellama.generation import Chunk, Generation, Statistics
    from edgellama.kv_cache import KVCache
    from edgellama.llama import Llama
    from edgellama.models import pull
    from edgellama.quant.errors import (
        ContextLengthError,
        ConversionError,
        DownloadError,
        EdgellamaError,
        GenerationCancelled,
        InvalidOptionError,
        KernelError,
        ModelFileError,
        ModelNotFoundError,
        ResumeError,
        TemplateError,
        TokenizerError,
        UnsupportedModelError,
    )
    from edgellama.quant.gguf_file import GGUFFile
    from edgellama.quant.model_config import ModelConfig
    from edgellama.sampling import SamplingOptions
    from edgellama.session import Session
    from edgellama.stream import Stream
    from edgellama.tokenizer import Tokenizer, load_tokenizer

_MODULES = {
    "CancelToken": "edgellama.cancellation",
    "ChatTemplate": "edgellama.chat_template",
    "Chunk": "edgellama.generation",
    "ContextLengthError": "edgellama.quant.errors",
    "ConversionError": "edgellama.quant.errors",
    "Conversation": "edgellama.conversation",
    "DownloadError": "edgellama.quant.errors",
    "EdgellamaError": "edgellama.quant.errors",
    "Engine": "edgellama.engine",
    "GGUFFile": "edgellama.quant.gguf_file",
    "Generation": "edgellama.generation",
    "GenerationCancelled": "edgellama.quant.errors",
    "InvalidOptionError": "edgellama.quant.errors",
    "KVCache": "edgellama.kv_cache",
    "KernelError": "edgellama.quant.errors",
    "Llama": "edgellama.llama",
    "ModelConfig": "edgellama.quant.model_config",
    "ModelFileError": "edgellama.quant.errors",
    "ModelNotFoundError": "edgellama.quant.errors",
    "ResumeError": "edgellama.quant.errors",
    "SamplingOptions": "edgellama.sampling",
    "Session": "edgellama.session",
    "Statistics": "edgellama.generation",
    "Stream": "edgellama.stream",
    "TemplateError": "edgellama.quant.errors",
    "Tokenizer": "edgellama.tokenizer",
    "TokenizerError": "edgellama.quant.errors",
    "UnsupportedModelError": "edgellama.quant.errors",
    "load_tokenizer": "edgellama.tokenizer",
    "pull": "edgellama.models",
}

__all__ = [
    "CancelToken",
    "ChatTemplate",
    "Chunk",
    "ContextLengthError",
    "Conversation",
    "ConversionError",
    "DownloadError",
    "EdgellamaError",
    "Engine",
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
    "ResumeError",
    "SamplingOptions",
    "Session",
    "Statistics",
    "Stream",
    "TemplateError",
    "Tokenizer",
    "TokenizerError",
    "UnsupportedModelError",
    "load_tokenizer",
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
