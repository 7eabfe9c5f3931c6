"""The chat in the terminal: commands, input, and replies as they are shown.

``command`` begins it, ``loop`` reads and answers lines, ``chat`` holds the model and the
conversation, and ``commands`` has everything that begins with a slash.
"""
