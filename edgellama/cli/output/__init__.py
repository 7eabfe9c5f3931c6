"""The output of commands: tables, plots, progress, and texts while they are generated.

``tables`` writes rows in every style, ``terminal`` knows what a terminal can show, ``streaming``
runs a reply. The commands know what the figures mean.
"""
