"""Kernels loaded on a card: the driver compiles their PTX, and each function knows what it costs.

If the driver refuses the code, the error quotes the words of the driver's compiler. How PTX is made
is left to ``ptx_cache`` and ``ptx_target``; how a kernel is launched, to ``streams``.
"""

from __future__ import annotations

import ctypes

from edgellama.cuda.context import Context, Resource
from edgellama.quant.errors import CudaError

ERROR_LOG, ERROR_LOG_BYTES = 5, 6
"""Options of the driver's compiler."""
LOG_BYTES = 8192
MAX_THREADS, LOCAL_BYTES, REGISTERS, DYNAMIC_SHARED_BYTES = 0, 3, 4, 8
"""Attributes of a function."""


class Module(Resource):
    """Code on the card, from the text of PTX; its functions live as long as it does."""

    def __init__(self, context: Context, ptx: str) -> None:
        """Compile and load; CudaError, with the compiler's words, where the driver refuses."""
        image = ctypes.create_string_buffer(ptx.encode("ascii"))
        log = ctypes.create_string_buffer(LOG_BYTES)
        options = (ctypes.c_int * 2)(ERROR_LOG, ERROR_LOG_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), LOG_BYTES)
        handle = ctypes.c_void_p()
        try:
            context.call("cuModuleLoadDataEx", handle, image, len(options), options, values)
        except CudaError as error:
            told = log.value.decode("utf-8", "replace").strip()
            raise type(error)(
                ": ".join(filter(None, (error.what, told))), code=error.code
            ) from None
        super().__init__(context, "cuModuleUnload", handle.value or 0)

    def function(self, name: str, shared_bytes: int = 0) -> Function:
        """The kernel ``name``, which may be launched with so many bytes of shared memory."""
        handle = ctypes.c_void_p()
        self.context.call("cuModuleGetFunction", handle, self.handle, name.encode("ascii"))
        function = Function(self, name, handle.value or 0)
        if shared_bytes:
            call = self.context.call
            call("cuFuncSetAttribute", function.handle, DYNAMIC_SHARED_BYTES, shared_bytes)
        return function


class Function:
    """A kernel of a module: ``handle`` is what ``cuLaunchKernel`` takes."""

    def __init__(self, module: Module, name: str, handle: int) -> None:
        """Ask what the kernel costs."""
        self.module, self.name, self.handle = module, name, handle
        self.num_registers = self._attribute(REGISTERS)
        self.local_bytes = self._attribute(LOCAL_BYTES)
        self.max_threads = self._attribute(MAX_THREADS)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self.module.context.call("cuFuncGetAttribute", value, number, self.handle)
        return value.value
