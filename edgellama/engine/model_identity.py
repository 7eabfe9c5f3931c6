"""Tells one model from another, whatever its file's name or path.

Keys and values fit only the model that computed them, and tokens only the vocabulary.
"""

from __future__ import annotations

import numpy as np

from edgellama.quant.digests import blake2b
from edgellama.quant.gguf.file import GGUFFile
from edgellama.quant.gguf.strings import StringArray

IDENTITY_BYTES = 16
SAMPLE_BYTES = 1024
"""Taken of each tensor three times: from its start, its middle and its end."""


def model_identity(file: GGUFFile) -> str:
    """A hash of what decides keys and values, in hexadecimal; some milliseconds of work.

    It covers the constants of the architecture, the vocabulary's tokens, every tensor's name,
    shape and format, and samples of their bytes. Names, templates and where the file is split do
    not count. Two models of the same shape that differ in a few rows alone may not be told apart.
    """
    found = blake2b(digest_size=IDENTITY_BYTES)
    architecture = str(file.metadata.get("general.architecture"))
    for key in sorted(file.metadata):
        if key.startswith(f"{architecture}.") or key == "tokenizer.ggml.tokens":
            found.update(
                key.encode("utf-8", "surrogateescape") + b"\0" + _as_bytes(file.metadata[key])
            )
    for name, tensor in sorted(file.tensors.items()):
        found.update(_as_bytes((name, tensor.shape, tensor.format.name)))
        middle = max(tensor.num_bytes - SAMPLE_BYTES, 0) // 2
        for start in (0, middle, max(tensor.num_bytes - SAMPLE_BYTES, 0)):
            found.update(tensor.data[start : start + SAMPLE_BYTES].tobytes())
    return found.hexdigest()


def _as_bytes(value: object) -> bytes:
    if isinstance(value, StringArray):
        return value.raw
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return repr(value).encode("utf-8", "surrogateescape")
