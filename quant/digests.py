"""BLAKE2b without OpenSSL, as ``random`` of the standard library has its SHA-512.

``hashlib`` loads OpenSSL's library, 4 MB of a process that does not need it otherwise.
"""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:  # A Python that was built without it.
    from hashlib import blake2b

__all__ = ["blake2b"]
