"""What a conversion will write, and whether the engine will run it."""
