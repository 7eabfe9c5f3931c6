"""How each block format of weights is read: block by block, and as panels of rows."""
