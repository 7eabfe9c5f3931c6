"""Block formats and the GGUF file reader: what a model file holds, and nothing that runs it.

Imports nothing else of edgellama. Each name is imported from its own module.
"""
