"""What a text must look like: schemas, regexes and grammars, followed token by token."""
