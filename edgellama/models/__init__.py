"""Names of models, fetching them, and the folder where they are kept.

``names`` finds the file of a name, ``pulling`` fetches what is missing, ``library`` lists what is
there, and ``checkpoints`` converts a folder. Nothing is loaded here.
"""
