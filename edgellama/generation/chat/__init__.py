"""Messages as prompts in a model's chat format, and conversations over one session.

Users hold a ``conversation``, which consists of three classes: its record, its prompts and its
replies, each extending the one before. ``chat_format`` makes a request of messages, also for
batches and the server.
"""
