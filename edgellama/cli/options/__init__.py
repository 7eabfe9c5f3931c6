"""Options that several commands share, and the arguments that they become.

``options`` has the general ones; the other modules are named after their subject. Values that are
checked before a command runs are click types: ``token_count``, ``byte_size``, ``completion``.
"""
