"""Threads, event loops and turns: who may run while others run, and for how long.

``waiting_line`` gives turns, ``worker`` and ``async_items`` serve event loops, ``in_order`` runs
many works at once. What runs is not known here.
"""
