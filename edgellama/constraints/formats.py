"""Values of a schema's ``format``: which ones are kept to, and patterns for some of them.

A generated text must be valid. So a pattern may leave out rare valid forms, but must allow no wrong
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_HEX = "[0-9a-f]"
_YEAR = r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP_YEAR = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_LONG_MONTH = r"(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
_SHORT_MONTH = r"(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
_FEBRUARY = r"02-(?:0[1-9]|1\d|2[0-8])"
_DATE = f"(?:{_YEAR}-(?:{_LONG_MONTH}|{_SHORT_MONTH}|{_FEBRUARY})|{_LEAP_YEAR}-02-29)"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(?:\.\d{{1,6}})?(?:Z|[+-]{_CLOCK})"

PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "date": f"^{_DATE}$",
        "time": f"^{_TIME}$",
        "date-time": f"^{_DATE}T{_TIME}$",
        "decimal": r"^-?\d{1,20}(?:\.\d{1,20})?$",
        **{
            f"uuid{version}": f"^{_HEX}{{8}}-{_HEX}{{4}}-{version}{_HEX}{{3}}-"
            f"[89ab]{_HEX}{{3}}-{_HEX}{{12}}$"
            for version in (1, 3, 4, 5, 6, 7, 8)
        },
    }
)
"""Days that the calendar has, from year 1; times without leap seconds, which Python lacks too."""
BOUNDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"int32": (-(2**31), 2**31 - 1), "int64": (-(10**18), 10**18)}
)
"""Smallest and largest number; llguidance counts no further than to 10**18."""
NATIVE = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
"""What llguidance has patterns for."""
FREE = ("binary", "password", "float", "double", "path", "file-path", "directory-path")
"""What says how a value is used, and nothing about its text."""
FORMATS = (*PATTERNS, *NATIVE, *BOUNDS, *FREE)
