"""Turns errors into what a client is told: a status, a text, and a shape for each protocol.

No text names a file of this machine, and none has a traceback. Logs have both.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from edgellama.quant.errors import (
    CacheError,
    ContextLengthError,
    DownloadError,
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
    ModelNotFoundError,
    TemplateError,
    TokenizerError,
    UnsupportedModelError,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2
"""What a client is told to wait where the server has too much to do."""
MAX_CHARACTERS, BEGINNING, ENDING = 1500, 700, 700
"""Of what a client is told, and of what is left of more: the end says what is allowed."""
LONGER_CONTEXT = (
    "Send less, or serve it with a longer --context, beyond its own with --rope-scaling"
)
ANTHROPIC_HEADER = "anthropic-version"
"""Each request of Anthropic's clients has it, also at paths that they share with OpenAI's."""
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:[\\/]|/|~/|\\\\)(?:[^\s'\"/\\:;,]+[\\/])+")
"""The folders of an absolute path, up to its last name."""
_OPTION = re.compile(r"([a-z]\w*) is ")
"""How the library's errors begin that are about the value of an option."""


class RequestError(EdgellamaError):
    """What a client is told. ``param`` is the field that it is about, ``code`` a word for it.

    ``details`` is what Anthropic's clients read beside the text, to go on without what is refused.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        details: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers)
        self.details = dict(details)


def refused(param: str | None, message: str) -> RequestError:
    """The error of a field's value that cannot be obeyed."""
    return RequestError(400, message, param=param, code="invalid_value")


def too_busy(message: str, code: str = "queue_full", status: int = 429) -> RequestError:
    """The error of a server that has too much to do: the client is to come again."""
    return RequestError(status, message, code=code, headers={"retry-after": str(RETRY_AFTER_S)})


_STATUS: tuple[tuple[type[Exception], int, str | None], ...] = (
    (ContextLengthError, 400, "context_length_exceeded"),
    (ModelNotFoundError, 404, "model_not_found"),
    (InvalidOptionError, 400, "invalid_value"),
    (TemplateError, 400, "invalid_messages"),
    (TokenizerError, 400, "invalid_value"),
    (UnsupportedModelError, 400, "unsupported_model"),
    (DownloadError, 502, "download_failed"),
    # A client who cancels otherwise has left, or gets another error before this one.
    (GenerationCancelled, 408, "timeout"),
    (CacheError, 507, "storage"),
    (MemoryError, 503, "out_of_memory"),
    (EdgellamaError, 500, "failed"),
)


def as_request_error(error: BaseException) -> RequestError:
    """The answer to a client for any error; details that are not for clients are logged."""
    if isinstance(error, RequestError):
        return error
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            if status >= 500:
                logger.error("%s", error)
            text = _client_text(error)
            named = _OPTION.match(text) if kind is InvalidOptionError else None
            param = named[1] if named else None
            return RequestError(status, _shortened(without_paths(text)), param=param, code=code)
    logger.error("a request failed", exc_info=error)
    return RequestError(500, "internal error; the server's log has more", code="internal_error")


def _client_text(error: BaseException) -> str:
    """What a client is told of an error of ours.

    Agents shorten a conversation, and gateways try another model, where they find in an error the
    words of Anthropic ("prompt is too long: N tokens > M maximum") or OpenAI ("maximum context
    length is M tokens"). Else they give up.
    """
    if isinstance(error, ContextLengthError):
        most = f"this model's maximum context length is {error.context_length} tokens"
        return f"{error.what}; {most}. {LONGER_CONTEXT}"
    return error.what if isinstance(error, EdgellamaError) else "out of memory"


def without_paths(text: str) -> str:
    """``text`` with the last name alone of every absolute path."""
    return _FOLDERS.sub("", text)


def _shortened(text: str) -> str:
    """A text whose middle is left out where it repeats what a client has sent in masses."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:BEGINNING]} ... {text[-ENDING:]}"


def openai_error(error: RequestError) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    return {
        "error": {
            "message": error.what,
            "type": _OPENAI_TYPES.get(error.status, _openai_type(error.status)),
            "param": error.param,
            "code": error.code,
        }
    }


def ollama_error(error: RequestError) -> dict[str, Any]:
    """The error in Ollama's shape."""
    return {"error": error.what}


def anthropic_error(error: RequestError) -> dict[str, Any]:
    """The error in Anthropic's shape."""
    is_ours = error.status >= 500
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if is_ours else "invalid_request_error")
    told = {"type": kind, "message": error.what}
    return {"type": "error", "error": {**told, "details": error.details} if error.details else told}


ErrorShape: TypeAlias = Callable[[RequestError], "dict[str, Any]"]


def error_shape(path: str, headers: Collection[str] = ()) -> ErrorShape:
    """The shape of the protocol that a path belongs to, or a request with such headers."""
    is_ollama = path.startswith("/api/") and not path.startswith("/api/v0/")
    if is_ollama or path == "/":
        return ollama_error
    is_anthropic = path.startswith("/v1/messages") or ANTHROPIC_HEADER in headers
    return anthropic_error if is_anthropic else openai_error


def _openai_type(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
