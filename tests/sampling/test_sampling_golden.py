"""Every stage against llama.cpp's samplers and transformers' processors, on fixed logits."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from places import DATA

from edgellama.sampling.mirostat import Mirostat
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler
from edgellama.sampling.shape_filters import surprise_bits

GOLDEN = np.load(DATA / "sampling_golden.npz")
CASES = json.loads(str(GOLDEN["cases"]))
HISTORY = GOLDEN["history"].tolist()
NOTHING = 1e-30
"""Below it a probability may be nothing in f32."""


def case_name(number: int) -> str:
    """The library and what of the options is not off."""
    options = {k: v for k, v in CASES[number]["options"].items() if k != "chosen"}
    return f"{CASES[number]['library']}-{CASES[number]['logits']}-{json.dumps(options)}"


@pytest.mark.parametrize("number", range(len(CASES)), ids=case_name)
def test_what_is_left_is_what_the_library_leaves(number: int) -> None:
    """The same tokens keep a probability, and it is the same to four digits."""
    options: dict[str, Any] = dict(CASES[number]["options"])
    logits = GOLDEN["logits"][CASES[number]["logits"]]
    chosen = options.pop("chosen", None)
    ends = options.pop("end_tokens", ())
    if "logit_bias" in options:
        options["logit_bias"] = {int(k): v for k, v in options["logit_bias"].items()}
    bias = {
        token: -math.inf if amount is False else amount
        for token, amount in options.get("logit_bias", {}).items()
    }
    sampler = Sampler(SamplingOptions(**options), end_tokens=ends, bias=bias)
    if chosen is not None:
        chances = mirostat_chances(SamplingOptions(**options), logits, chosen)
    else:
        chances = sampler.chances(logits, HISTORY)
    expected = GOLDEN["chances"][number]
    np.testing.assert_array_equal(chances > NOTHING, expected > NOTHING)
    np.testing.assert_allclose(chances, expected, rtol=1e-4, atol=NOTHING)


def mirostat_chances(options: SamplingOptions, logits: Any, chosen: list[int]) -> Any:
    """What Mirostat leaves after it has learnt from tokens that llama.cpp chose."""
    mirostat = Mirostat(options)
    for token in chosen:
        kept = mirostat.keep(logits)
        mirostat.learn(surprise_bits(logits[kept], int(np.flatnonzero(kept == token)[0])))
    kept = mirostat.keep(logits)
    chances = np.zeros(len(logits))
    chances[kept] = np.exp(logits[kept] - logits[kept].max())
    return chances / chances.sum()
