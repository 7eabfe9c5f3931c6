"""What a model tells of texts without writing one: vectors, ranks, scores, verdicts."""
