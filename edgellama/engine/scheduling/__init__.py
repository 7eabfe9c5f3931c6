"""Who waits for tokens to be computed, and which of them share a step.

``work`` is what one caller wants; ``scheduler`` makes steps of the works of all callers.
"""
