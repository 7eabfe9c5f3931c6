"""What a command shows: tables, plots, progress, and texts while they are made.

``tables`` writes rows in every style, ``terminal`` knows what a terminal can show, ``streaming``
runs a reply. The commands know what the figures mean.
"""
