"""Messages as prompts in a model's chat format, and conversations over one session.

``conversation`` is what users hold, in three classes, each the one before and more: its record, its
prompts, its replies. ``chat_format`` makes a request of messages, for batches and the server too.
"""
