"""Names of models, fetching them, and the folder where they are kept.

``names`` finds the file of a name, ``pulling`` fetches what is not there, ``library`` lists what
is, and ``checkpoints`` converts a folder on the way. Nothing is loaded here.
"""
