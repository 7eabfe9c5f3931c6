"""The commands: a module for each that ``application`` lists, and what it alone needs.

A command reads its arguments, calls the Python API and shows what comes. Its options of several
commands are in ``options``, its tables and plots in ``output``.
"""
