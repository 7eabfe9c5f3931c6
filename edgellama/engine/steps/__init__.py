"""One step: from tokens of several sequences to logits.

``segments`` says what goes into a step, and ``step`` computes it. Who asked, and which threads run
it, is left to others.
"""
