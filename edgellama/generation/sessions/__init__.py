"""Sessions, which keep what is computed, and the streams in which their texts come."""
