"""The form of a text, kept to token by token: schemas, regexes and grammars.

``answer_form`` reads what a user asks for, ``json_schema`` checks schemas keyword by keyword, and
``compiler`` makes a ``token_constraint`` of it. The package llguidance has the automaton.
"""
