"""The names of the options that ask for a form; ``answer_form`` knows what they mean."""

FORM_OPTIONS = ("schema", "json", "regex", "grammar", "choices")
"""Options of which a text has one at most."""
