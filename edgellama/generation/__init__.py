"""From a prompt or messages to text: requests, decoding, sessions, conversations and batches.

``decoding`` is one text, token after token; ``session`` and ``batch`` run it, and ``conversation``
makes its prompt of messages. What a token is computed by is the engine's, how it is chosen
``edgellama.sampling``'s.
"""
