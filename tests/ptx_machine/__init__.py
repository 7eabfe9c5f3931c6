"""A machine for PTX in NumPy: a test double of a card that runs the very text that a driver gets.

Written from NVIDIA's "Parallel Thread Execution ISA" alone, not from the kernels or their CPU form,
so that it is an independent check of them. It knows the instructions that the kernels use and
refuses every other by name. It is stricter than a card: what a card may do either way is a fault.
"""

from ptx_machine.faults import PtxFault
from ptx_machine.global_memory import GlobalMemory
from ptx_machine.machine import PtxMachine
from ptx_machine.traffic import Traffic

__all__ = ["GlobalMemory", "PtxFault", "PtxMachine", "Traffic"]
