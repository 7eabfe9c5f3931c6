"""What a text must look like: schemas, regexes and grammars, followed token by token.

``answer_form`` reads what a user asks for, ``json_schema`` checks schemas keyword by keyword, and
``compiler`` makes a ``token_constraint`` of it. The automaton is the package llguidance's.
"""
