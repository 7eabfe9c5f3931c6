"""Memory for machine code: written first, then made executable, never both at once.

Knows how Linux, macOS and Windows give such pages. What is written into them is the business of
whoever has the code.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import sys
import weakref

from edgellama.quant.errors import KernelError

REMEDY = "its security settings (SELinux, a hardened runtime) must let programs make machine code"
ANYWHERE = None
PROT_READ, PROT_WRITE, PROT_EXECUTE = 1, 2, 4
MAP_JIT = 0x0800
"""On macOS: pages for code that a hardened program makes."""
MAP_FAILED = ctypes.c_void_p(-1).value
MEM_COMMIT_AND_RESERVE, MEM_RELEASE = 0x3000, 0x8000
PAGE_READONLY, PAGE_READWRITE, PAGE_EXECUTE_READ = 0x02, 0x04, 0x20


class ExecutableMemory:
    """Pages that hold code until this object is gone; at the end of the process they stay.

    Threads that the interpreter does not wait for may run kernels until the very end.
    """

    def __init__(self, num_bytes: int) -> None:
        """Take pages that can be written to; KernelError if the system has none."""
        self.num_bytes = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.address = _allocate(self.num_bytes)
        # Not at exit, and not by the garbage collector after it.
        weakref.finalize(self, _release, self.address, self.num_bytes).atexit = False

    def fill(self, content: bytes | bytearray, code_bytes: int) -> None:
        """Write ``content``, whose first ``code_bytes`` (whole pages) are made executable.

        The rest can be read alone. KernelError where the system forbids it.
        """
        if len(content) > self.num_bytes or not 0 <= code_bytes <= self.num_bytes:
            raise KernelError(f"{len(content)} bytes do not fit {self.num_bytes} of memory")
        source = (ctypes.c_char * len(content)).from_buffer_copy(content)
        if _is_jit_mapped():
            _write_through_jit(self.address, source)
        else:
            ctypes.memmove(self.address, source, len(content))
            _protect(self.address, code_bytes, is_code=True)
            _protect(self.address + code_bytes, self.num_bytes - code_bytes, is_code=False)
        _drop_stale_instructions(self.address, code_bytes)


def _is_jit_mapped() -> bool:
    """Apple's own processors switch all such pages of a thread at once, page by page nothing."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


if sys.platform == "win32":

    def _kernel32() -> ctypes.WinDLL:
        library = ctypes.WinDLL("kernel32", use_last_error=True)
        size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint32
        library.VirtualAlloc.argtypes = (pointer, size, number, number)
        library.VirtualAlloc.restype = pointer
        library.VirtualProtect.argtypes = (pointer, size, number, ctypes.POINTER(number))
        library.VirtualFree.argtypes = (pointer, size, number)
        library.GetCurrentProcess.restype = pointer
        library.FlushInstructionCache.argtypes = (pointer, pointer, size)
        return library

    def _failure(what: str) -> KernelError:
        reason = ctypes.FormatError(ctypes.get_last_error()).strip()
        return KernelError(f"{what}: {reason}; {REMEDY}")

    def _allocate(num_bytes: int) -> int:
        kind = MEM_COMMIT_AND_RESERVE
        address = _kernel32().VirtualAlloc(ANYWHERE, num_bytes, kind, PAGE_READWRITE)
        if not address:
            raise _failure("the system gives no memory for machine code")
        return int(address)

    def _release(address: int, num_bytes: int) -> None:
        _kernel32().VirtualFree(address, 0, MEM_RELEASE)

    def _protect(address: int, num_bytes: int, *, is_code: bool) -> None:
        before = ctypes.c_uint32()
        mode = PAGE_EXECUTE_READ if is_code else PAGE_READONLY
        if num_bytes and not _kernel32().VirtualProtect(address, num_bytes, mode, before):
            raise _failure("the system lets no memory be executed")

    def _drop_stale_instructions(address: int, num_bytes: int) -> None:
        library = _kernel32()
        library.FlushInstructionCache(library.GetCurrentProcess(), address, num_bytes)

else:

    def _libc() -> ctypes.CDLL:
        library = ctypes.CDLL(None, use_errno=True)
        size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
        library.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_int64)
        library.mmap.restype = pointer
        library.mprotect.argtypes = (pointer, size, number)
        library.munmap.argtypes = (pointer, size)
        return library

    def _failure(what: str) -> KernelError:
        return KernelError(f"{what}: {os.strerror(ctypes.get_errno())}; {REMEDY}")

    def _allocate(num_bytes: int) -> int:
        protection, flags = PROT_READ | PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANON
        if _is_jit_mapped():
            protection, flags = protection | PROT_EXECUTE, flags | MAP_JIT
        address = _libc().mmap(ANYWHERE, num_bytes, protection, flags, -1, 0)
        if address == MAP_FAILED:
            raise _failure("the system gives no memory for machine code")
        return int(address)

    def _release(address: int, num_bytes: int) -> None:
        _libc().munmap(address, num_bytes)

    def _protect(address: int, num_bytes: int, *, is_code: bool) -> None:
        mode = PROT_READ | (PROT_EXECUTE if is_code else 0)
        if num_bytes and _libc().mprotect(address, num_bytes, mode) != 0:
            raise _failure("the system lets no memory be executed")

    def _drop_stale_instructions(address: int, num_bytes: int) -> None:
        """Needed on Arm alone, where Linux does it, too, for pages that become executable."""
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        if sys.platform == "darwin":
            ctypes.CDLL(None).sys_icache_invalidate(pointer(address), size(num_bytes))
        elif platform.machine() == "aarch64":
            with contextlib.suppress(OSError, AttributeError):  # Not every system has it.
                clear = getattr(ctypes.CDLL("libgcc_s.so.1"), "__clear_cache")
                clear(pointer(address), pointer(address + num_bytes))


def _write_through_jit(address: int, source: ctypes.Array[ctypes.c_char]) -> None:
    """Write to pages of MAP_JIT, which this thread can either write to or execute."""
    switch = ctypes.CDLL(None).pthread_jit_write_protect_np
    switch(0)
    try:
        ctypes.memmove(address, source, len(source))
    finally:
        switch(1)
