"""Options of several commands: what may be written, and the arguments that it becomes.

``options`` has the general ones; the others are named by what they are of. Values that are checked
before a command runs are click types: ``token_count``, ``byte_size``, ``completion``.
"""
