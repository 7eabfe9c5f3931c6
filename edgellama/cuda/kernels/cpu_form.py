"""Compiles kernels of the card for the CPU, where one value of a lane is a vector of 32 lanes.

The functions are the same as for PTX, so that tests on a machine without a card run what the card
would run. Only tests use this form: it gives the right results but is not fast. Its function for a
warp takes two addresses: that of the kernel's arguments, one in each slot of 8 bytes, and that of
the warp's record, which ``warp`` describes.
"""

from __future__ import annotations

from edgellama.cuda.kernels.front_end import source_of
from edgellama.kernels_cpu.compiling.front_end import (
    linked,
    optimize,
    target_machine,
    typed_library,
)
from edgellama.kernels_cpu.compiling.jit import entry_module
from edgellama.kernels_cpu.signatures import Kernel


def compile_object(kernel: Kernel) -> bytes:
    """Object code for the tier of ``jit.use_tier``, with one symbol: the kernel's name."""
    source, machine = source_of(kernel), target_machine()
    library, symbol = typed_library(source)
    entry = entry_module(kernel.name, source, symbol, num_own=1)
    module = linked(entry, library, kernel.name)
    optimize(module, machine, speed_level=1)
    return bytes(machine.emit_object(module))
