"""What a model costs and how good it is: instruments of the engine, and what they tell.

``footprint`` predicts memory, ``bench`` measures speed, ``op_profile`` the parts of a step,
``perplexity`` and ``importance`` run over a text. Tables and plots are left to the command line.
"""
