"""A server for the protocols of OpenAI, Ollama and Anthropic; needs the extra ``server``.

``run`` is its life, ``application`` its routes. The files of a protocol begin with its name, and
share what is in ``fields``, ``answers``, ``models``, ``stores`` and ``connections``.
"""

import shlex
import sys
from importlib.util import find_spec

from edgellama.quant.errors import EdgellamaError

_NEEDED = ("starlette", "uvicorn", "msgspec")


def require_extra() -> None:
    """EdgellamaError, with the command that helps, where a package of the extra is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise EdgellamaError(
            f"the server needs {' and '.join(missing)}; run: {shlex.quote(sys.executable)} -m pip "
            f"install {' '.join(missing)}"
        )
