"""What a model costs and how good it is: instruments of the engine, and their results.

``footprint`` predicts memory, ``bench`` measures speed, ``op_profile`` the parts of a step;
``perplexity`` and ``importance`` run over a text. The command line shows tables and plots.
"""
