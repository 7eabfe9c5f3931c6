"""Finds the place in a schema that an error of llguidance is about; llguidance does not name it.

Each subschema is compiled alone, the innermost ones first. The first one that fails with the same
words is the place. Only errors cost this time.
"""

from __future__ import annotations

import json
from functools import partial

from edgellama.constraints.deep_stack import call_deeply
from edgellama.constraints.guidance import llguidance, plain_message
from edgellama.constraints.keywords import DEFINITIONS
from edgellama.constraints.schema_places import subschemas

MAX_ATTEMPTS = 200


def place_of_error(grammar: str, message: str, num_parts: int) -> str:
    """Where the innermost subschema stands that fails in the same way alone; "" for the whole."""
    grammars = json.loads(grammar)["grammars"]
    root = next(each["json_schema"] for each in grammars if "json_schema" in each)
    definitions = {name: root[name] for name in DEFINITIONS if name in root}
    matcher = llguidance().LLMatcher
    for number, (place, inner) in enumerate(subschemas(root)):
        if number >= MAX_ATTEMPTS or place == "#":
            break
        alone = json.dumps({**definitions, **inner})
        inner_grammar = matcher.grammar_from_json_schema(alone)
        found = call_deeply(partial(matcher.validate_grammar, inner_grammar), num_parts)
        if plain_message(found) == message:
            return f" at {place}"
    return ""
