"""What tests of the graphics card share: a context over the driver's double, PTX, every call."""

from __future__ import annotations

import numpy as np
from doubles.fake_cuda import FakeCuda

from edgellama.cuda import cards
from edgellama.cuda.context import Context
from edgellama.cuda.driver import Driver
from edgellama.cuda.memory import CardMemory, MappedMemory, RegisteredMemory
from edgellama.cuda.modules import Module
from edgellama.cuda.streams import Event, Stream

PTX = """//
.version 7.0
.target sm_80
.address_size 64
.visible .entry double_it(
	.param .u64 double_it_param_0,
	.param .u64 double_it_param_1,
	.param .f32 double_it_param_2
)
{
	ret;
}
"""


def opened(fake: FakeCuda) -> Context:
    """A context on the double's first card."""
    driver = Driver(fake)
    return Context(driver, cards.choose_card(driver))


def everything(context: Context) -> None:
    """Use all there is once."""
    memory, stream = CardMemory(context), Stream(context)
    part, pinned = memory.allocate(256), MappedMemory(context, 256)
    shown = RegisteredMemory(context, np.zeros(64, np.float32))
    module = Module(context, PTX)
    function = module.function("double_it", 64)
    start, end = Event(context), Event(context)
    start.record(stream)
    stream.copy_to_card(part.address, pinned.address, 256)
    stream.copy_on_card(part.address, part.address + 128, 128)
    stream.fill(part.address, 0, 256)
    stream.launch(function, (1, 1, 1), 32, (part.address, shown.device_address, 1.0))
    stream.copy_from_card(pinned.address, part.address, 256)
    end.record(stream)
    stream.is_idle()
    stream.synchronize()
    context.synchronize()
    assert start.seconds_until(end) >= 0
    assert context.memory_bytes()[0] > 0
