"""Typed access to the JSON beside a checkpoint: every field is checked when it is read.

Such a file is untrusted. A field of a wrong type is a ModelFileError that names the file, the
field, the value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgellama.convert.sources.json_file import parse_json_object
from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.mapped_file import map_file

MAX_FILE_BYTES = 1 << 26  # a tokenizer.json of 128 thousand tokens has 17 MB
MAX_SIZE = 1 << 24


def read_file(path: Path, what: str) -> bytes:
    """All bytes of a file that is ``what``; ModelFileError for more than MAX_FILE_BYTES."""
    content = map_file(path, what)
    if len(content) > MAX_FILE_BYTES:
        raise file_error(path, f"is {what} of {len(content)} bytes", f"{MAX_FILE_BYTES}")
    return bytes(content[:])


def read_text(path: Path, what: str) -> str:
    """A file's text; ModelFileError if it is not UTF-8."""
    try:
        return read_file(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file_error(path, f"{what} is not UTF-8 at byte {error.start}", "UTF-8") from None


def read_fields(path: Path) -> Fields:
    """The object in a JSON file; without fields if there is no such file."""
    if not path.is_file():
        return Fields({}, str(path))
    return Fields(parse_json_object(path, read_file(path, "a JSON file"), "the file"), str(path))


class Fields:
    """Typed access to an object of untrusted JSON; null counts as absent.

    ``source`` is the file, and ``prefix`` the path inside it, as messages show them.
    """

    def __init__(self, values: Mapping[str, object], source: str, prefix: str = "") -> None:
        self.values = values
        self.source = source
        self.prefix = prefix

    def __bool__(self) -> bool:
        return bool(self.values)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def error(self, name: str, allowed: str) -> ModelFileError:
        """What to raise for a field with a value that is not ``allowed``."""
        found = f"is {shown(self.values[name])}" if name in self.values else "is missing"
        return ModelFileError(f"{self.source}: {self.prefix}{name} {found}; allowed: {allowed}")

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1 to MAX_SIZE; the default if absent, an error without one."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
            raise self.error(name, f"a whole number from 1 to {MAX_SIZE}")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above 0; the default if absent, an error without one."""
        if not self.has(name) and default is not None:
            return default
        found = self._finite(name)
        if found is None or found <= 0:
            raise self.error(name, "a number above 0")
        return found

    def number(self, name: str) -> float:
        """A finite number; an error without one."""
        found = self._finite(name)
        if found is None:
            raise self.error(name, "a number")
        return found

    def _finite(self, name: str) -> float | None:
        value = self.values.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30:
            return float(value) if math.isfinite(value) else None
        return None

    def flag(self, name: str, default: bool) -> bool:
        """True or false; the default if absent."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def text(self, name: str) -> str | None:
        """A string; None if absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return self.checked_text(name, value)

    def checked_text(self, name: str, value: str) -> str:
        """The string itself; an error unless it can be written as UTF-8."""
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.error(name, "text without lone surrogates") from None
        return value

    def fields(self, name: str) -> Fields:
        """An object; without fields if absent."""
        value = self.values.get(name)
        if value is None:
            return Fields({}, self.source, f"{self.prefix}{name}.")
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return Fields(value, self.source, f"{self.prefix}{name}.")

    def items(self, name: str) -> list[object]:
        """An array; empty if absent."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(name, "an array")
        return value

    def objects(self, name: str) -> Iterator[Fields]:
        """The items of an array of objects."""
        for index, item in enumerate(self.items(name)):
            if not isinstance(item, dict):
                raise self.error(name, "an array of objects")
            yield Fields(item, self.source, f"{self.prefix}{name}[{index}].")
