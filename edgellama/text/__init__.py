"""Text to tokens and back, chat formats, stop strings; knows no engine.

``tokenizer`` has the two kinds of vocabularies, ``chat_tokens`` makes prompts of messages, and
what is looked for in a growing text is in ``stop_strings`` and ``banned_strings``.
"""
