"""Threads, event loops and turns: which texts may run at once, and for how long.

``waiting_line`` gives turns, ``worker`` and ``async_items`` serve event loops, ``in_order`` runs
many works at once. This room does not know what it runs.
"""
