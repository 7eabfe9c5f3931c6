"""The files of a conversion: planned to the byte, written, resumed, read back, reported."""
