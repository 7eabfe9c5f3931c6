"""The one tree of errors that edgellama raises on purpose.

Every class derives from EdgellamaError, so that one ``except`` is enough. Those with a natural
built-in parent also derive from that. The code that raises an error writes its message.
"""

from __future__ import annotations

from edgellama.quant.ways import Way

FROM_THE_START = Way("call it again without resume=True", "start without --resume")
"""What helps where a conversion cannot be continued."""


class EdgellamaError(Exception):
    """Base of every error that edgellama raises on purpose.

    ``way``: what helps, in words for a program and for a terminal. As text the error has the
    former, ``in_terminal`` has the latter.
    """

    def __init__(self, *arguments: object, way: Way | None = None) -> None:
        super().__init__(*arguments)
        self.way = way

    @property
    def what(self) -> str:
        """What is wrong, without the way out."""
        return super().__str__()

    def within(self, place: object) -> EdgellamaError:
        """The same error, of the same class, that names the file or thing it was found in."""
        return type(self)(f"{place}: {self.what}", way=self.way)

    @property
    def in_terminal(self) -> str:
        """The text for a user of the command line."""
        return self.what if self.way is None else f"{self.what}; {self.way.command}"

    def __str__(self) -> str:
        return self.what if self.way is None else f"{self.what}; {self.way.python}"


class ModelFileError(EdgellamaError, ValueError):
    """A malformed or hostile file; the text reads ``<path>: <what>, <value>; <allowed>``."""


class UnsupportedModelError(EdgellamaError):
    """A well-formed file that cannot run here: architecture, tensor format, tokenizer pattern."""


class ModelNotFoundError(EdgellamaError, FileNotFoundError):
    """No model file under the given path or name."""


class DownloadError(EdgellamaError):
    """A model could not be fetched, or something else was received."""


class CacheError(EdgellamaError):
    """The cache folder cannot be written; the text names the folder and says what to do."""


class TokenizerError(EdgellamaError, ValueError):
    """A vocabulary that cannot be rebuilt, or tokens and text that do not fit it."""


class TemplateError(EdgellamaError, ValueError):
    """A chat template that cannot be parsed, is refused by the sandbox, or raises."""


class ContextLengthError(EdgellamaError, ValueError):
    """More tokens than the context has room for; both counts are attributes."""

    def __init__(
        self, message: str, prompt_tokens: int, context_length: int, *, way: Way | None = None
    ) -> None:
        super().__init__(message, prompt_tokens, context_length, way=way)
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length

    @property
    def what(self) -> str:
        """What is wrong, without the way out."""
        return str(self.args[0])

    def within(self, place: object) -> ContextLengthError:
        """The same error, with both counts, that names the text it is about."""
        what = f"{place}: {self.what}"
        return ContextLengthError(what, self.prompt_tokens, self.context_length, way=self.way)


class SessionFileError(EdgellamaError, ValueError):
    """A saved session that is damaged, or of another model, type or adapter than is needed."""


class ConversionError(EdgellamaError):
    """A conversion cannot continue, or its result cannot be trusted; no file is left behind."""


class ResumeError(ConversionError):
    """An unfinished conversion cannot be continued; start it again from the beginning."""

    def __init__(self, *arguments: object, way: Way | None = FROM_THE_START) -> None:
        super().__init__(*arguments, way=way)


class GenerationCancelled(EdgellamaError):
    """A step was stopped by its cancel token."""


class StageLostError(EdgellamaError):
    """A part of a model on another machine does not answer, and does not come back."""


class KernelError(EdgellamaError):
    """A kernel could not be compiled, loaded, or run on this CPU's tier."""


class CudaError(EdgellamaError):
    """The graphics card or its driver cannot do what was asked, or there is none.

    ``code`` is what the driver has returned, 0 if it was not asked.
    """

    def __init__(self, *arguments: object, code: int = 0, way: Way | None = None) -> None:
        super().__init__(*arguments, way=way)
        self.code = code


class CudaMemoryError(CudaError):
    """The card has less free memory than is needed, or than its limit allows."""


class CudaLostError(CudaError):
    """All that the process had on its card is lost; later calls fail until the process ends."""


class InvalidOptionError(EdgellamaError, ValueError):
    """An argument or option outside its allowed values."""


class ConstraintError(InvalidOptionError):
    """A schema, regular expression, grammar or choice that no text can be made to follow."""
