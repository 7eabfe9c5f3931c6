"""Lets a model use Python functions, and shows each call with what came of it.

Functions are described to the model by their hints and docstrings. The first reply is made to call
one of them, since the starter model is too small to decide that well; larger models do with
--decide. Needs the extra `grammar`:

    python examples/tool_use.py "How much is 12 times 34?"
"""

from __future__ import annotations

import argparse
from datetime import date
from typing import Literal

from edgellama import ChatOptions, Llama, ToolCall


def calculate(left: float, operation: Literal["+", "-", "*", "/"], right: float) -> float:
    """Calculate with two numbers.

    Args:
        left: The first number.
        operation: What to do with them: + adds, - subtracts, * multiplies, / divides.
        right: The second number.
    """
    return {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "/": left / right if operation == "/" else 0.0,
    }[operation]


def days_until(year: int, month: int, day: int) -> str:
    """Count the days from today to a day of the calendar.

    Args:
        year: The year, such as 2030.
        month: The month, from 1 to 12.
        day: The day of the month, from 1.
    """
    return f"{(date(year, month, day) - date.today()).days} days"


def show(call: ToolCall, result: str) -> None:
    """A call and its result on a line."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    print(f"{call.name}({arguments}) -> {result}", flush=True)


def main() -> None:
    """Ask one question."""
    parser = argparse.ArgumentParser(description="Let a model use Python functions.")
    parser.add_argument("question")
    parser.add_argument("--model", default="smollm2", help="path or name  [default: smollm2]")
    parser.add_argument("--decide", action="store_true", help="let the model decide what to call")
    arguments = parser.parse_args()
    options: ChatOptions = {
        "tools": [calculate, days_until],
        "tool_choice": "auto" if arguments.decide else "calculate",
        "temperature": 0,
        "max_tokens": 200,
    }
    with Llama(arguments.model) as llama, llama.chat(**options) as chat:
        print(chat.run(arguments.question, max_rounds=4, on_call=show).text)


if __name__ == "__main__":
    main()
