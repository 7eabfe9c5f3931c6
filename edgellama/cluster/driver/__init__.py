"""The driver: texts as tokens, and the order in which their steps go through the stages.

``spread_engine`` stands in an engine's place; a step is followed from ``spread_steps`` over
``pipeline`` to ``rounds``. Keys and values are the stages' alone.
"""
