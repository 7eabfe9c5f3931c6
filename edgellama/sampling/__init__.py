"""Choosing the next token from logits, with every option that users have for it.

``options`` says what may be asked for, ``sampler`` joins the ``stages`` that do it, and the pure
functions that these call are in the other files. What computes logits is not known here.
"""
