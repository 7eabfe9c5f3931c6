"""How each block format of weights is read: block by block, and as panels of rows side by side.

``blocks`` and ``panels`` are the two tables of all formats. Each module behind them knows the
layouts of one family, and ``block_code`` and ``panel_code`` say what a kernel asks of a format.
Multiplying is left to ``matrices``.
"""
