"""Kernels along rows of activations, and activations as int8."""
