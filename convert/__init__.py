"""From a checkpoint to a GGUF file: ``convert`` writes it, ``plan`` tells what it would write.

A conversion is streamed, so it takes little memory whatever the model; it can be stopped and
resumed, and says how exact the result is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from edgellama.convert.options import AnyPath, ConversionArguments
    from edgellama.convert.output.report import ConversionReport
    from edgellama.convert.pipeline import KernelProgress, Progress
    from edgellama.convert.planning.conversion_plan import ConversionPlan

__all__ = ["convert", "plan"]


def convert(
    source: AnyPath,
    output: AnyPath | None = None,
    *,
    progress: Progress | None = None,
    kernel_progress: KernelProgress | None = None,
    **arguments: Unpack[ConversionArguments],
) -> ConversionReport:
    """Writes the model at ``source`` as a GGUF file of a given type.

    ``source``: a folder of Hugging Face or Meta, one of its weight files, or a GGUF file.
    ``output``: the file, by default NAME-TYPE.gguf in the current folder; it gets that name when
    it is complete. ``arguments``: see ConversionArguments. ``progress`` is called on this thread;
    ``kernel_progress`` with the kernels compiled and to compile, where some are not cached.

    Raises InvalidOptionError, ModelNotFoundError, ModelFileError, UnsupportedModelError, and
    ConversionError: the output is there, is the source or cannot be written, weights are NaN or
    infinite, the source has changed. After a full disk or an interruption, what was finished
    stays beside ``output`` and ``resume=True`` goes on; other errors leave nothing.
    """
    from edgellama.convert.options import read_options
    from edgellama.convert.pipeline import run_conversion

    options = read_options(output, arguments)
    return run_conversion(Path(source).expanduser(), options, progress, kernel_progress)


def plan(
    source: AnyPath, output: AnyPath | None = None, **arguments: Unpack[ConversionArguments]
) -> ConversionPlan:
    """What ``convert`` would write, from headers alone; raises as it does."""
    from edgellama.convert.options import read_options
    from edgellama.convert.planning.planner import plan_conversion
    from edgellama.convert.sources.opening import open_checkpoint

    with open_checkpoint(Path(source).expanduser()) as checkpoint:
        return plan_conversion(checkpoint, read_options(output, arguments))
