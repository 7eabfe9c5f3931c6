"""Block formats and the GGUF file reader: what a model file holds, and nothing that runs it.

It imports nothing else of edgellama. Import each name from its own module.
"""
