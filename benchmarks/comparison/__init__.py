"""Engines side by side: who is measured and how, in which order, and how the figures are shown."""
