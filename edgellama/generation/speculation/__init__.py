"""Guesses of a text's next tokens, which one step checks together.

``speculation`` decides who guesses for a text: ``ngram_drafter``, from the text itself, or
``draft_model``, a smaller model. A wrong guess costs time and changes nothing else.
"""
