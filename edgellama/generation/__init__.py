"""From a prompt or messages to text: the request, and everything that makes a text of it.

``text_options`` and ``text_request`` define what callers may ask for, and ``results`` what they
get. Then read ``decoding``: one text, token after token. ``sessions``, ``chat`` and ``batches`` run
it. The engine computes logits, and ``edgellama.sampling`` chooses tokens from them.
"""
