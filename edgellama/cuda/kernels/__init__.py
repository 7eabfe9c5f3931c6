"""What runs on the card: Python functions over a warp's lanes, for PTX and, in tests, the CPU."""
