"""What a conversion will write, and whether the engine will run it.

``planner`` makes a ``conversion_plan`` from a source and options: formats, metadata and files, to
the byte. Nothing is written here.
"""
