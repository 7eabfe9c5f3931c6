"""From Python functions to machine code: compiling it, keeping it, loading it."""
