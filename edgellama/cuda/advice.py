"""What a user can do about an error of NVIDIA's driver whose own message does not say it.

One table has the codes that function calls return, the other those of the driver's start. The
message itself comes from ``driver``, which adds this advice to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NOT_INITIALIZED, STUB_LIBRARY, UNAVAILABLE = 3, 34, 46
COMPILER_NOT_FOUND, COMPILATION_DISABLED, OPERATING_SYSTEM = 221, 223, 304
SYSTEM_NOT_READY, DRIVER_MISMATCH, NO_COMPATIBILITY, UNKNOWN = 802, 803, 804, 999

NO_FILES = "look whether /dev/nvidiactl, /dev/nvidia0 and /dev/nvidia-uvm are there"
ADVICE: Mapping[int, str] = MappingProxyType(
    {
        STUB_LIBRARY: "a toolkit's stub of the library was found before the driver's: look at "
        "LD_LIBRARY_PATH",
        UNAVAILABLE: "another program may have the card for itself (compute mode exclusive)",
        COMPILER_NOT_FOUND: "the driver's libnvidia-ptxjitcompiler.so.1 is missing: install it; "
        "in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        COMPILATION_DISABLED: "unset CUDA_DISABLE_PTX_JIT",
        SYSTEM_NOT_READY: "start NVIDIA's fabric manager: systemctl start nvidia-fabricmanager",
        DRIVER_MISMATCH: "the driver was updated: restart the computer",
        NO_COMPATIBILITY: "a library newer than the driver was found first, as CUDA's containers "
        "have it: take its folder (cuda/compat) out of LD_LIBRARY_PATH",
    }
)
"""By code."""
START_ADVICE: Mapping[int, str] = MappingProxyType(
    {
        NOT_INITIALIZED: "this process was forked from one that has used a graphics card: start "
        "it by spawn",
        OPERATING_SYSTEM: NO_FILES,
        UNKNOWN: f"{NO_FILES}; after a laptop's sleep: sudo modprobe -r nvidia_uvm && "
        "sudo modprobe nvidia_uvm",
    }
)
"""The same where the driver does not start."""


def advice(code: int, name: str) -> str:
    """What to do about a code that the function ``name`` has returned; nothing for most.

    >>> advice(223, "cuModuleLoadDataEx"), advice(700, "cuStreamQuery")
    ('unset CUDA_DISABLE_PTX_JIT', '')
    """
    found = START_ADVICE.get(code) if name == "cuInit" else None
    return found or ADVICE.get(code, "")
