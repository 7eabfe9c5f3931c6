"""What runs on the card: Python functions over a warp's lanes, for PTX and, in tests, the CPU.

``decode`` attends a few tokens, ``prefill`` many on tensor cores, ``prefill_plain`` many without
them, and ``store`` writes keys and values; the other files are their pieces.
"""
