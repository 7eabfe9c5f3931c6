"""From a checkpoint to a GGUF file: ``convert`` writes it, ``plan`` tells what it would write.

A conversion streams its source, so it takes little memory for any model. It can be stopped and
resumed, and reports how exact the result is.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import edgellama.convert  # For annotations; pyright finds nothing in a package not imported so.
from edgellama.quant.typing_backports import Unpack

TYPE_CHECKING = False  # Which type checkers take for true, as in ``edgellama``.

if TYPE_CHECKING:
    from edgellama.convert.options import ConversionArguments
    from edgellama.convert.output.report import ConversionReport
    from edgellama.convert.pipeline import ConversionProgress
    from edgellama.convert.planning.conversion_plan import ConversionPlan

_MODULES = {
    "ConversionArguments": "edgellama.convert.options",
    "ConversionPlan": "edgellama.convert.planning.conversion_plan",
    "ConversionProgress": "edgellama.convert.pipeline",
    "ConversionReport": "edgellama.convert.output.report",
}
"""Imported when they are first used, since a conversion takes much that nothing else does."""

__all__ = [
    "ConversionArguments",
    "ConversionPlan",
    "ConversionProgress",
    "ConversionReport",
    "convert",
    "plan",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[edgellama.convert.ConversionProgress], None] | None = None,
    kernel_progress: Callable[[int, int], None] | None = None,
    **arguments: Unpack[edgellama.convert.ConversionArguments],
) -> edgellama.convert.ConversionReport:
    """Write the model at ``source`` as a GGUF file of a given type.

    After a full disk or an interruption, the finished part stays beside ``output``, and
    ``resume=True`` continues it. Other errors leave nothing behind.

    Arguments:
        source: A folder of Hugging Face or Meta, one of its weight files, or a GGUF file.
        output: The file, which gets this name when it is complete. None (the default) is
            NAME-TYPE.gguf in the current folder.
        progress: Called on this thread with a ConversionProgress while tensors are finished. None
            (the default) calls nothing.
        kernel_progress: Called as ``kernel_progress(compiled, total)`` if some kernels must be
            compiled. None (the default) calls nothing.
        arguments: ``type`` ("q4_k_m" by default), ``imatrix``, ``verify`` and the others that
            ConversionArguments explains.

    Returns:
        Size and error of every tensor and of the whole file.

    Raises:
        InvalidOptionError: An argument outside its range.
        ModelNotFoundError: There is no such source.
        ModelFileError: The source is malformed.
        UnsupportedModelError: The source is no Llama, or has weights that cannot be read.
        ConversionError: The output is there, is the source or cannot be written; weights are NaN
            or infinite; the source has changed.

    Example:
        >>> import tempfile
        >>> from edgellama import pull
        >>> from edgellama.convert import convert
        >>> report = convert(pull("smollm2"), tempfile.mkdtemp() + "/small.gguf", type="q4_0")
        >>> report.path.name
        'small.gguf'
    """
    from edgellama.convert.options import read_options
    from edgellama.convert.pipeline import run_conversion
    from edgellama.quant.given_values import check_function, given_path

    check_function("progress", progress, "a ConversionProgress")
    check_function("kernel_progress", kernel_progress, "two numbers")
    path, options = given_path("source", source).expanduser(), read_options(output, arguments)
    return run_conversion(path, options, progress, kernel_progress)


def plan(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    **arguments: Unpack[edgellama.convert.ConversionArguments],
) -> edgellama.convert.ConversionPlan:
    """Tell what ``convert`` would write, from headers alone.

    Arguments:
        source: A folder of Hugging Face or Meta, one of its weight files, or a GGUF file.
        output: The file. None (the default) is NAME-TYPE.gguf in the current folder.
        arguments: As for ``convert``.

    Returns:
        Every tensor with its type and size.

    Raises: as ``convert``, for what headers tell.

    Example:
        >>> from edgellama import pull
        >>> from edgellama.convert import plan
        >>> len(plan(pull("smollm2"), type="q8_0").tensors)
        272
    """
    from edgellama.convert.options import read_options
    from edgellama.convert.planning.planner import plan_conversion
    from edgellama.convert.sources.opening import open_checkpoint
    from edgellama.quant.given_values import given_path

    path, options = given_path("source", source).expanduser(), read_options(output, arguments)
    with open_checkpoint(path) as checkpoint:
        return plan_conversion(checkpoint, options)
