"""One text, token after token: prefill, which token comes next, where the text ends."""
