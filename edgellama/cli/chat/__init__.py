"""The chat in the terminal: commands, input, and replies as they are shown.

``command`` begins it, ``loop`` goes round, ``chat`` holds the model and the conversation, and
``commands`` has what begins with a slash.
"""
