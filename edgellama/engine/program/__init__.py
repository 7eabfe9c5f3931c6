"""A Llama's forward pass as a list of kernel calls, and the buffers that they work in.

``llama_program`` writes the list; ``program`` packs it for the threads. Nothing runs here.
"""
