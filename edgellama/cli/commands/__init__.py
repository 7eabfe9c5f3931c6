"""The commands that ``application`` lists, and modules that only one command needs.

A command reads its arguments, calls the Python API and shows the results. Options of several
commands are in ``options``, tables and plots in ``output``.
"""
