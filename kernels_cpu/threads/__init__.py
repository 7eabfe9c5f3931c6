"""The team of threads that runs programs, and how the threads share the work.

``thread_team`` starts and wakes the threads, ``executor`` is what each of them runs, and ``tasks``
divides an op among them. Writing programs is left to the engine.
"""
