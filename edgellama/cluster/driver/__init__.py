"""The driver: holds texts as tokens, and sends their steps through the stages.

``spread_engine`` takes an engine's place. A step is followed from ``spread_steps`` over ``rounds``
and ``pipeline`` to ``passage``. Only stages hold keys and values.
"""
