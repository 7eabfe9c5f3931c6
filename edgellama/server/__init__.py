"""A server for several protocols over HTTP; needs the extra ``server``.

``run`` starts and ends it, ``application`` has the routes. The protocols of OpenAI, Ollama,
Anthropic and llama.cpp have a room each, and so has the chat page (``browser``). They share what is
in ``judging``, ``fields``, ``answers``, ``models``, ``stores`` and ``connections``.
"""

from importlib.util import find_spec

from edgellama.quant.errors import EdgellamaError
from edgellama.quant.ways import install_command

_NEEDED = ("starlette", "uvicorn", "msgspec")


def require_extra() -> None:
    """EdgellamaError, with the command that helps, where a package of the extra is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise EdgellamaError(
            f"the server needs {' and '.join(missing)}; run: {install_command(*missing)}"
        )
