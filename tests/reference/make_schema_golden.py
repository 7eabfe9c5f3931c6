"""Writes tests/data/schema_golden.json: the cases of the JSON Schema Test Suite that concern us.

The suite (https://github.com/json-schema-org/JSON-Schema-Test-Suite, Copyright (c) 2012 Julian
Berman, MIT licence) is in the source package of ``jsonschema``; its draft 2020-12. Run from the
folder tests, with the path of the package's folder ``json`` as argument:
``python -m reference.make_schema_golden PATH``.

Beside each schema stands whether it is refused, and beside each value whether it is valid and
whether it is generated. What is generated and not valid stops this program.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgellama.constraints.keywords import KEYWORDS
from edgellama.quant.errors import ConstraintError
from reference.constraint_texts import schema_allows

TARGET = Path(__file__).parent.parent / "data" / "schema_golden.json"
MORE = ("anchor", "boolean_schema", "content", "default", "defs", "infinite-loop-detection", "ref")
FORMATS = (
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
LICENCE = "JSON Schema Test Suite, Copyright (c) 2012 Julian Berman, MIT licence"


def groups(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """All groups of the suite's files about what is claimed; formats for texts alone."""
    names = sorted(
        {*(name for name in KEYWORDS if name not in ("$ref", "format", "nullable")), *MORE}
    )
    found = []
    for name in names:
        path = folder / "tests" / "draft2020-12" / f"{name}.json"
        found += [(name, group) for group in json.loads(path.read_text("utf-8"))]
    for name in FORMATS:
        path = folder / "tests" / "draft2020-12" / "optional" / "format" / f"{name}.json"
        found += [(f"format {name}", group) for group in json.loads(path.read_text("utf-8"))]
    return found


def outcome(schema: Any, values: list[Any]) -> list[bool] | str:
    """Which values are generated, or why none is."""
    try:
        return [schema_allows(schema, value) for value in values]
    except ConstraintError as error:
        return str(error).split("; see docs")[0].split("; allowed")[0]


def main() -> None:
    """Write the file; say what was refused."""
    cases = []
    for name, group in groups(Path(sys.argv[1])):
        schema = group["schema"]
        if isinstance(schema, dict):
            schema.pop("$schema", None)
        values = [test["data"] for test in group["tests"]]
        valid = [test["valid"] for test in group["tests"]]
        generated = outcome(schema, values)
        if isinstance(generated, list):
            wrong = [v for v, g, ok in zip(values, generated, valid, strict=True) if g and not ok]
            if wrong:
                raise SystemExit(f"{name}, {group['description']}: {wrong} would be generated")
            for value, made, right in zip(values, generated, valid, strict=True):
                if right and not made:
                    print(f"not generated: {name}, {group['description']}: {value!r}")
        else:
            print(f"refused: {name}, {group['description']}: {generated}")
        cases.append([name, group["description"], schema, values, valid, generated])
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    TARGET.write_text(f'{{"source": "{LICENCE}", "cases": [\n{lines}\n]}}\n', "utf-8")
    print(f"{TARGET}: {len(cases)} schemas, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
