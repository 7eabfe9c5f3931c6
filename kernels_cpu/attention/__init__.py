"""Kernels for rotary positions, for storing keys and values, and for attention over them.

``kernels`` goes through pages and tiles and leaves the arithmetic to ``direct`` (in f32) or
``packed`` (in integers). ``rope`` and ``cache_store`` write the pages, and ``card`` hands the work
to a graphics card. Which kernel a step uses is decided by the engine.
"""
