"""The models that requests may name, those that are loaded, and downloads of others.

``catalogue`` knows the names, ``model_shelf`` loads and unloads, ``jobs`` run long work that
several clients may wait for.
"""
