"""The works that callers wait for, and which of them share a step.

``work`` is what one caller wants; ``scheduler`` makes steps of the works of all callers.
"""
