"""Stages: neighbouring layers with keys and values of their own, and what is said to them.

``stage`` computes; ``stage_call`` and ``stage_task`` are what it is told, as plain values that any
transport can carry.
"""
