"""Choosing the next token from logits, with every option that users have for it.

``options`` says what users may ask for, and ``sampler`` joins the ``stages`` that do it; the other
files have the pure functions that these call. This room does not compute logits.
"""
