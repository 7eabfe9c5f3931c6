"""Kernels that work along rows of activations, and the conversion of activations to int8.

``kernels`` has most of them, ``heads`` the one along heads, and ``activations`` the layouts of int8
that the matrix kernels read.
Attention and products with matrices are left to their own rooms.
"""
