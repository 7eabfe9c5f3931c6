"""Files as raw bytes, right or wrong on purpose."""
