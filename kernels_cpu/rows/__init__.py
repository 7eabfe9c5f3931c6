"""Kernels that work along rows of activations, and the conversion of activations to int8.

``kernels`` has the kernels, and ``activations`` the layouts of int8 that the matrix kernels read.
Attention and products with matrices are left to their own rooms.
"""
