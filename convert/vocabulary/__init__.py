"""A source's tokenizer as GGUF holds it: tokens, merges, roles and the chat template.

``vocabulary_source`` chooses the file, and each ``*_vocabulary`` file reads one kind.
``edgellama.text`` encodes texts.
"""
