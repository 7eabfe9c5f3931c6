"""What changes from step to step of a Llama's program, by the names that it is bound under."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgellama.engine.program import Bound

Mode: TypeAlias = Literal["decode", "short", "prefill"]
"""How a step runs: one token, a few, or many."""
NUM_TOKENS, NUM_OUTPUTS = Bound("num_tokens"), Bound("num_outputs")
POSITION = Bound("position")
