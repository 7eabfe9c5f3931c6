"""Guesses of a text's next tokens, which one step checks together."""
