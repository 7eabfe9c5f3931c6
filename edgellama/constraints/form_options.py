"""The options that ask for a form, by name, and what a schema may be given as.

``answer_form`` knows what they mean; this is apart from it so that a list of names costs no import
of the rest.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

FORM_OPTIONS = ("schema", "json", "regex", "grammar", "choices")
"""Options of which a text has one at most."""
Schema: TypeAlias = Mapping[str, Any] | str | bool | type[Any] | Any | None
"""A JSON Schema as a dict, JSON text or a bool; a class or an annotation; None for none."""
