"""Kernels of the card: Python functions over a warp's lanes, for PTX and, in tests, for the CPU.

``decode`` computes attention of a few tokens, ``prefill`` of many on tensor cores, and
``prefill_plain`` of many without them. ``store`` writes keys and values into pages. The other
modules are parts of these four.
"""
