"""JSON of untrusted files: limited in size before it is parsed, with one clear error for any fault.

The callers know which keys must be there, and their types.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from edgellama.quant.error_text import file_error, shown
from edgellama.quant.errors import ModelFileError
from edgellama.quant.mapped_file import map_file

MAX_JSON_BYTES = 16 << 20  # the index of a 405B model has about 100 kB
# A value takes up to some 80 bytes in Python and as few as two in the file.
MAX_JSON_VALUES = 2_000_000

_Pairs = list[tuple[str, object]]


def read_json_object(path: str | os.PathLike[str]) -> dict[str, object]:
    """The JSON object that the file at ``path`` holds; a byte order mark is skipped.

    Raises ModelNotFoundError for an absent file, ModelFileError for any other content or for
    more than MAX_JSON_BYTES.
    """
    path = Path(path)
    content = map_file(path, "a JSON file")
    if len(content) > MAX_JSON_BYTES:
        raise file_error(path, f"is a JSON file of {len(content)} bytes", f"{MAX_JSON_BYTES}")
    return parse_json_object(path, content[:], "the file")


def parse_json_object(
    path: Path, raw: bytes, what: str, pairs_hook: Callable[[_Pairs], object] | None = None
) -> dict[str, object]:
    """The JSON object in ``raw``, which is ``what`` of ``path``; ModelFileError for anything else.

    ``pairs_hook`` makes each object from its pairs, as in json.loads.
    """
    # Every value but the first of a list or an object comes after a comma.
    num_values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if num_values > MAX_JSON_VALUES:
        raise file_error(path, f"{what} has some {num_values} JSON values", f"{MAX_JSON_VALUES}")
    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs_hook)
    except ModelFileError:
        raise
    except UnicodeDecodeError as error:
        raise file_error(
            path, f"{what} is not UTF-8 at byte {error.start}", "a JSON object"
        ) from None
    except json.JSONDecodeError as error:
        raise file_error(path, f"{what} is not JSON, {error}", "a JSON object") from None
    except ValueError:  # Python's limit, whose words are for programmers
        raise file_error(path, f"{what} has a number of thousands of digits", "shorter") from None
    except RecursionError:
        raise file_error(path, f"{what} nests JSON too deep", "a JSON object") from None
    if not isinstance(value, dict):
        raise file_error(path, f"{what} holds JSON {shown(value)}", "a JSON object")
    return value
