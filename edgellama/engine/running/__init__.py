"""The threads that run steps, and all that belongs to them.

``machinery`` owns weights, buffers, threads and programs; ``step_runs`` runs a step on them, and
``next_token`` repeats the last one.
"""
