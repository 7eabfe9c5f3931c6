"""Text to tokens and back, chat formats, stop strings; it knows no engine.

``tokenizer`` has the two kinds of vocabularies, ``chat_tokens`` turns messages into prompts, and
``stop_strings`` and ``banned_strings`` watch a growing text.
"""
