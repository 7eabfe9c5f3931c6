"""Where the kernel that chooses tokens finds what it is asked and the memory that it works in.

Plain numbers, shared by the compiled kernel and the Python that calls it.
"""

from __future__ import annotations

from edgellama.kernels_cpu.layouts import SELECTION_GROUP as GROUP

GROUP_BYTES = 4 * GROUP
TOP_P, MIN_P_DISTANCE, TEMPERATURE, FRACTION, NUM_SETTINGS = 0, 1, 2, 3, 4
"""Places among the f64 settings; the distance is that from the largest logit to min-p's limit."""
UNDECIDED = -1
"""Instead of a token where rounding could decide, or where no logit is the largest."""


def list_bytes(num_values: int) -> int:
    """Bytes of a list of f32 or of i32, padded to whole groups and one more."""
    return (num_values // GROUP + 2) * GROUP_BYTES


def scratch_bytes(num_values: int) -> int:
    """Bytes for a last group, the groups' maxima and sums, values, tokens and weights."""
    num_groups = num_values // GROUP + 1
    return GROUP_BYTES + 3 * list_bytes(num_groups) + 3 * list_bytes(num_values)
