"""The driver: texts as tokens, and the order in which their steps go through the stages.

``spread_engine`` stands in an engine's place; a step is followed from ``spread_steps`` over
``rounds`` and ``pipeline`` to ``passage``. Keys and values are the stages' alone.
"""
