"""What a command shows: tables, plots, progress, and texts while they are made.

``tables`` writes rows in every style, ``terminal`` knows what a terminal can show, ``streaming``
runs a reply. What the figures mean is left to the commands.
"""
