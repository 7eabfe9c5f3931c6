"""What a conversion will write, and whether the engine will run it.

``planner`` makes a ``conversion_plan`` of a source and options, to the byte: formats, metadata,
files. Nothing is written here.
"""
