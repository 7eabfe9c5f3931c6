"""Sessions, which keep what was computed, and the streams in which their texts come.

Users hold a ``session``. A ``stream`` is a text on its way, which any thread may cancel;
``async_stream`` is the same for event loops.
"""
