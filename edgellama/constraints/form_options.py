"""The names of the options that ask for a form, and the types that a schema may be given as.

``answer_form`` knows what they mean. They are in a file of their own so that a list of names
imports nothing else.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

FORM_OPTIONS = ("schema", "json", "regex", "grammar", "choices")
"""Options of which a text has one at most."""
Schema: TypeAlias = Mapping[str, Any] | str | bool | type[Any] | Any | None
"""A JSON Schema as a dict, JSON text or a bool; a class or an annotation; None for none."""
