"""Writes what NVIDIA's header says of the driver's functions and numbers that we use.

    python -m reference.make_cuda_golden cuda.h > data/cuda_header.json  # in tests

The header is in the wheel ``nvidia-cuda-runtime-cu12``, in ``nvidia/cuda_runtime/include``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from edgellama.cuda.driver import FUNCTIONS

NUMBERS = (
    *("CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_NOT_READY"),
    *("CUDA_ERROR_DEINITIALIZED", "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA_ERROR_ECC_UNCORRECTABLE"),
    *("CUDA_ERROR_NVLINK_UNCORRECTABLE", "CUDA_ERROR_CONTAINED", "CUDA_ERROR_ILLEGAL_ADDRESS"),
    *("CUDA_ERROR_LAUNCH_TIMEOUT", "CUDA_ERROR_CONTEXT_IS_DESTROYED", "CUDA_ERROR_ASSERT"),
    *("CUDA_ERROR_HARDWARE_STACK_ERROR", "CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    *("CUDA_ERROR_MISALIGNED_ADDRESS", "CUDA_ERROR_INVALID_ADDRESS_SPACE"),
    *("CUDA_ERROR_INVALID_PC", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_TENSOR_MEMORY_LEAK"),
    *("CUDA_ERROR_NOT_INITIALIZED", "CUDA_ERROR_STUB_LIBRARY", "CUDA_ERROR_OPERATING_SYSTEM"),
    *("CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "CUDA_ERROR_JIT_COMPILATION_DISABLED"),
    *("CUDA_ERROR_SYSTEM_NOT_READY", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    *("CUDA_ERROR_MPS_CLIENT_TERMINATED", "CUDA_ERROR_EXTERNAL_DEVICE", "CUDA_ERROR_UNKNOWN"),
    *("CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT", "CU_DEVICE_ATTRIBUTE_INTEGRATED"),
    *("CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT", "CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY"),
    *("CU_DEVICE_ATTRIBUTE_COMPUTE_MODE", "CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE"),
    *("CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH", "CU_COMPUTEMODE_PROHIBITED"),
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
    "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
    *("CU_STREAM_NON_BLOCKING", "CU_MEMHOSTALLOC_PORTABLE", "CU_MEMHOSTALLOC_DEVICEMAP"),
    *("CU_MEMHOSTREGISTER_PORTABLE", "CU_MEMHOSTREGISTER_DEVICEMAP"),
    *("CU_JIT_ERROR_LOG_BUFFER", "CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES"),
    *("CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK", "CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES"),
    *("CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES", "CU_FUNC_ATTRIBUTE_NUM_REGS"),
    "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
)
"""Names of enumerations and macros."""


def function(header: str, name: str) -> dict[str, object]:
    """Its symbol in the library, and the C types of its parameters."""
    renamed = re.search(rf"^#define {name}\s+(?:__CUDA_API_PT(?:SZ|DS)\()?(\w+)", header, re.M)
    found = re.search(rf"^CUresult CUDAAPI {name}\((.*?)\);", header, re.M | re.S)
    assert found, name
    parameters = [part.strip() for part in found[1].split(",")]
    types = [re.sub(r"\s*\w+$", "", part) for part in parameters if part != "void"]
    return {"symbol": renamed[1] if renamed else name, "types": types}


def number(header: str, name: str) -> int:
    """The value of a name."""
    found = re.search(rf"(?:^#define\s+{name}\s+|\b{name}\s*=\s*)(\w+)", header, re.M)
    assert found, name
    return int(found[1], 0)


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text("utf-8")
    golden = {
        "version": number(text, "CUDA_VERSION"),
        "functions": {name: function(text, name) for name in FUNCTIONS},
        "numbers": {name: number(text, name) for name in NUMBERS},
    }
    print(json.dumps(golden, indent=1))
