"""A source's tokenizer as GGUF holds it: tokens, merges, roles and the chat template.

``vocabulary_source`` says which file counts, and each ``*_vocabulary`` file reads one kind of it.
Encoding texts is left to ``edgellama.text``.
"""
