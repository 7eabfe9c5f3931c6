"""The files of a conversion: written, resumed, read back, reported.

``writer`` follows a plan tensor by tensor, ``chunks`` and ``row_work`` process the rows,
``journal`` remembers what is done, ``verify`` reads it back. ``planning`` decides what is written.
"""
