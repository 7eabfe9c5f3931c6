"""Names of ``typing`` that Python 3.10 does not have.

They are imported for real, so that ``typing.get_type_hints`` finds them.
"""

import sys

if sys.version_info >= (3, 11):
    from typing import Self, Unpack
else:
    from typing_extensions import Self, Unpack

__all__ = ["Self", "Unpack"]
