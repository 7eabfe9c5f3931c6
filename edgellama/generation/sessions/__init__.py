"""Sessions, which keep what is computed, and the streams in which their texts come.

``session`` is what users hold, ``stream`` a text on its way, which any thread may cancel;
``async_stream`` is the same for event loops.
"""
