"""How a driver and a stage on another machine talk: messages over a socket, as bytes.

``direct_line`` is the connection, ``wire`` writes calls and answers as bytes. ``stages`` defines
the calls.
"""
