"""What a model costs and how good it is: instruments of the engine, and what they tell."""
