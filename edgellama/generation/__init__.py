"""From a prompt or messages to text: what is asked for, and everything that makes a text of it.

``text_options`` and ``text_request`` say what may be asked for, ``results`` what comes of it. Then
read ``decoding``, one text, token after token; ``sessions``, ``chat`` and ``batches`` run it. What
a token is computed by is the engine's, how it is chosen ``edgellama.sampling``'s.
"""
