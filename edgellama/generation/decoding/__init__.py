"""One text, token after token: prefill, which token comes next, where the text ends.

``decoding`` is the loop. Of its parts ``prefill`` is the prompt, ``token_choice`` the next token,
``growing_text`` what there is of it. Who computes logits is not known here.
"""
