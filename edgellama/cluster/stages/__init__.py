"""Stages: neighbouring layers with keys and values of their own, and the calls that they take.

``stage`` computes. ``stage_call`` and ``stage_task`` are calls as plain values, which any transport
can carry.
"""
