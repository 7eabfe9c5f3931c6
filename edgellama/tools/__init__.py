"""Tools: functions that a model may call. They are shown to it, and its calls are read and run.

``tool`` is a function as plain data, ``presentation`` shows it to a model by its template,
``call_grammar`` says what a reply may be, and ``reading`` finds the calls in it. Nothing is
generated here.
"""
