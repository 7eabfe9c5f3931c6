"""One text, token after token: prefill, the choice of the next token, the end of the text.

``decoding`` is the loop. Its parts are ``prefill`` for the prompt, ``token_choice`` for the next
token and ``growing_text`` for the tokens so far. This room does not compute logits.
"""
