"""The models that requests may name, which of them are loaded, and downloads of others.

``catalogue`` knows the names, ``model_shelf`` loads and unloads, ``jobs`` are long work that
several clients may wait for.
"""
