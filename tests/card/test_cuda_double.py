"""The card for the whole engine that is none: PTX goes in by the facade, kernels compute."""

from __future__ import annotations

import numpy as np
from doubles.cuda_double import CudaDouble
from doubles.fake_modules import Launch
from doubles.warps import warp_runner
from harness.cards import CardCache, Part
from harness.cuda import opened

from edgellama.cuda.driver import MIN_DRIVER_VERSION
from edgellama.cuda.memory import CardMemory, MappedMemory
from edgellama.cuda.modules import Module
from edgellama.cuda.ptx_cache import ptx_of
from edgellama.cuda.signatures import CARD_KERNELS, CARD_SIGNATURES
from edgellama.cuda.streams import Stream
from edgellama.engine.pages.card_layout import CardPageLayout

KERNEL = CARD_KERNELS["card_store_f16_f16"]
HEAD_SIZE, KV_HEADS, TOKENS = 16, 2, 5


def test_a_kernel_computes_on_it() -> None:
    """A launch through the driver, with PTX's own parameters, does what the kernel does."""
    rng = np.random.default_rng(3)
    k, v = (rng.normal(size=(TOKENS, KV_HEADS, HEAD_SIZE)).astype("f4") for _ in "kv")
    expected = CardCache(warp_runner(), ("f16", "f16"), HEAD_SIZE, KV_HEADS, 2, 1, 128)
    expected.store([Part(0, 3, TOKENS)], k, v)
    double = CudaDouble(version=MIN_DRIVER_VERSION)  # Which takes old PTX alone.
    context = opened(double)
    memory, stream = CardMemory(context), Stream(context)
    layout = CardPageLayout(("f16", "f16"), 2, KV_HEADS, HEAD_SIZE)
    page = memory.allocate(layout.page_bytes)
    stream.fill(page.address, 0xFF, layout.page_bytes)
    rows = MappedMemory(context, 2 * k.nbytes)
    rows.view()[:] = np.concatenate([k, v]).view(np.uint8).ravel()
    table = expected.segments([Part(0, 3, TOKENS)], [0])
    words = memory.allocate(table.nbytes + 8)
    pages = np.array([page.address])
    stream.copy_to_card(words.address + table.nbytes, pages.ctypes.data, 8)
    table[8 + 3] = words.address + table.nbytes
    stream.copy_to_card(words.address, table.ctypes.data, table.nbytes)
    values = expected.layer() | {
        "q": 0, "q_stride": 0, "staged_q": 0, "staged_stride": 0, "k": rows.device_address,
        "v": rows.device_address + k.nbytes, "kv_stride": k.strides[0], "segments": words.address,
    }  # fmt: skip
    arguments = [values[name] for name in CARD_SIGNATURES[KERNEL].parameters]
    module = Module(context, ptx_of([KERNEL], (8, 6))[KERNEL])
    stream.launch(module.function(KERNEL.name), (TOKENS, KV_HEADS, 1), 32, arguments)
    result = MappedMemory(context, layout.page_bytes)
    stream.copy_from_card(result.address, page.address, layout.page_bytes)
    stream.synchronize()
    assert np.array_equal(result.view(), expected.page(0, 0))
    context.close()
    assert (double.violations, double.leaks) == ([], {})


def test_a_kernel_that_writes_too_far_is_found() -> None:
    """Bytes behind every piece of memory are checked after every launch."""
    double = CudaDouble()
    context = opened(double)
    part, stream = CardMemory(context).allocate(100), Stream(context)
    view = MappedMemory(context, 8)
    module = Module(context, ptx_of([KERNEL], (8, 6))[KERNEL])

    def write(launch: Launch) -> None:
        np.ctypeslib.as_array(double.device_memory[part.address].whole)[-300:] = 0

    double.run = write
    zeros = [0] * len(CARD_SIGNATURES[KERNEL].parameters)
    stream.launch(module.function(KERNEL.name), (1, 1, 1), 32, zeros)
    stream.synchronize()
    assert double.violations == [f"{KERNEL.name}: written behind 100 bytes"]
    assert view.is_open
