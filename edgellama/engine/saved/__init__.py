"""Keys and values of a sequence in a file.

``saved_cache`` writes and reads them; ``saved_pages`` and ``saved_header`` handle the file.
"""
