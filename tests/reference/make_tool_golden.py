"""Writes tests/data/tool_golden.json: what ``transformers`` shows of tools.

Run in ``tests`` with transformers installed: ``python -m reference.make_tool_golden``. Templates
lie in tests/data/tool_templates, as the makers of the models published them. ``schemas`` is what
transformers makes of the functions in tool_functions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template

from reference.tool_functions import GOOGLE_FUNCTIONS

DATA = Path(__file__).parent.parent / "data"
BOS, EOS = "<s>", "</s>"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The weather of a "place".',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Caf\u00e9 & <b>town</b>"},
                "days": {"type": "array", "items": {"type": "integer"}, "description": "Which."},
            },
            "required": ["place"],
        },
    },
}


def call(number: int, **arguments: Any) -> dict[str, Any]:
    """A call of the weather."""
    return {
        "id": f"call{number:05}",
        "type": "function",
        "function": {"name": "weather", "arguments": arguments},
    }


def result(number: int, content: str) -> dict[str, Any]:
    """What it returned."""
    return {
        "role": "tool",
        "name": "weather",
        "tool_call_id": f"call{number:05}",
        "content": content,
    }


ASKED = {"role": "user", "content": " How warm is it in Oslo? "}
CALLED = {"role": "assistant", "content": "", "tool_calls": [call(1, place="Oslo", days=[1, 2])]}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "system": [{"role": "system", "content": "Be brief."}, ASKED],
    "called": [ASKED, CALLED, result(1, '{"degrees": 3}')],
    "answered": [
        ASKED,
        CALLED,
        result(1, "3 degrees"),
        {"role": "assistant", "content": "3 degrees."},
        {"role": "user", "content": "And in Rome?"},
    ],
    "two calls": [
        ASKED,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call(1, place="Oslo"), call(2, place="Rome")],
        },
        result(1, "3"),
        result(2, "20"),
    ],
}
VARIABLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "in system": {"tools_in_user_message": False, "date_string": "01 Jan 2030"},
    "built in": {"builtin_tools": ["brave_search", "code_interpreter"]},
}


def main() -> None:
    """Write every template with every conversation that it takes."""
    cases: list[dict[str, Any]] = []
    for path in sorted((DATA / "tool_templates").glob("*.jinja")):
        for name, messages in CONVERSATIONS.items():
            for kind, given in VARIABLES.items():
                if kind != "plain" and (path.stem, name) != ("llama-3.1", "called"):
                    continue
                variables = {"date_string": "26 Jul 2024", **given}
                try:
                    rendered, _ = render_jinja_template(
                        [messages],
                        tools=[WEATHER],
                        chat_template=path.read_text("utf-8"),
                        add_generation_prompt=True,
                        bos_token=BOS,
                        eos_token=EOS,
                        **variables,
                    )
                except Exception as error:
                    rendered = [f"refused: {error}"]
                cases.append(
                    {
                        "name": f"{path.stem}-{name}-{kind}",
                        "template": path.stem,
                        "messages": name,
                        "variables": variables,
                        "prompt": rendered[0],
                    }
                )
    golden = {
        "tool": WEATHER,
        "conversations": CONVERSATIONS,
        "cases": cases,
        "schemas": {function.__name__: get_json_schema(function) for function in GOOGLE_FUNCTIONS},
    }
    (DATA / "tool_golden.json").write_text(json.dumps(golden, indent=1) + "\n", "ascii")


if __name__ == "__main__":
    main()
