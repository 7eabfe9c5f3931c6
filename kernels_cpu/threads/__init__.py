"""The threads that run programs together, and how they share the work."""
