"""Writes tests/data/sampling_golden.npz: what other libraries make of fixed logits.

Run in ``tests`` with llama-cpp-python, torch and transformers installed:
``python -m reference.make_sampling_golden``. DRY wants to see the starter model's vocabulary.
Each case is the options as JSON, the number of its logits, and the probabilities of all tokens
that a library leaves; tests compare ours with them.
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import torch
import transformers.generation.logits_process as hf

from edgellama.models.pulling import pull
from edgellama.models.well_known import STARTER_MODEL

FILE = Path(__file__).resolve().parent.parent / "data" / "sampling_golden.npz"
HISTORY = [3, 17, 3, 90, 41, 3, 17, 72, 8, 41, 17, 3, 90, 41, 3, 17, 72, 41, 3, 17]
NUM_TOKENS = 100
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


def fixed_logits() -> np.ndarray:
    """Three rows of 100 logits: spread like a text's, nearly flat, and with masked tokens."""
    rng = np.random.default_rng(7)
    rows = [
        rng.gumbel(0, 2.5, NUM_TOKENS),
        rng.normal(0, 0.4, NUM_TOKENS),
        rng.normal(1, 4, NUM_TOKENS),
    ]
    rows[2][::3] = -np.inf
    return np.stack(rows).astype(np.float32)


@functools.cache
def vocabulary() -> Any:
    """That of the starter model, as llama.cpp holds it."""
    lib.llama_backend_init()
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    path = str(pull(STARTER_MODEL)).encode()
    return lib.llama_model_get_vocab(lib.llama_model_load_from_file(path, parameters))


def dry(options: dict[str, Any]) -> Any:
    """llama.cpp's DRY without breakers."""
    return lib.llama_sampler_init_dry(
        *(vocabulary(), options.get("dry_multiplier", 0.0), options.get("dry_base", 1.75)),
        *(options.get("dry_allowed_length", 2), options.get("dry_last_n", 4096)),
        *((ctypes.c_char_p * 1)(), 0),
    )


LLAMA_CPP: dict[str, Callable[[dict[str, Any]], Any]] = {
    "penalties": lambda o: lib.llama_sampler_init_penalties(
        NUM_TOKENS,
        o.get("repeat_last_n", 64),
        o.get("repeat_penalty", 1.0),
        o.get("frequency_penalty", 0.0),
        o.get("presence_penalty", 0.0),
    ),
    "dry": dry,
    "top_n_sigma": lambda o: lib.llama_sampler_init_top_n_sigma(o.get("top_n_sigma", -1.0)),
    "top_k": lambda o: lib.llama_sampler_init_top_k(o.get("top_k", 40)),
    "typ_p": lambda o: lib.llama_sampler_init_typical(o.get("typical_p", 1.0), 1),
    "top_p": lambda o: lib.llama_sampler_init_top_p(o.get("top_p", 0.95), 1),
    "min_p": lambda o: lib.llama_sampler_init_min_p(o.get("min_p", 0.05), 1),
    "xtc": lambda o: lib.llama_sampler_init_xtc(
        o.get("xtc_probability", 0.0), o.get("xtc_threshold", 0.1), 1, 1
    ),
    "temperature": lambda o: lib.llama_sampler_init_temp_ext(
        o.get("temperature", 0.8), o.get("dynatemp_range", 0.0), o.get("dynatemp_exponent", 1.0)
    ),
}
"""llama.cpp's samplers by name, as its own programs make them of its options."""
ORDER = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)


def llama_cpp_chances(row: np.ndarray, options: dict[str, Any], runs: int = 1) -> np.ndarray:
    """Probabilities that llama.cpp's chain leaves; of mirostat after ``runs`` - 1 choices."""
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if options.get("mirostat") == 1:
        lib.llama_sampler_chain_add(
            chain,
            lib.llama_sampler_init_mirostat(
                len(row), 5, options["mirostat_tau"], options["mirostat_eta"], 100
            ),
        )
    elif options.get("mirostat") == 2:
        lib.llama_sampler_chain_add(
            chain,
            lib.llama_sampler_init_mirostat_v2(5, options["mirostat_tau"], options["mirostat_eta"]),
        )
    else:
        for name in options.get("samplers", ORDER):
            lib.llama_sampler_chain_add(chain, LLAMA_CPP[name](options))
    for token in HISTORY:
        lib.llama_sampler_accept(chain, token)
    chosen = []
    for _ in range(runs):
        data = (lib.llama_token_data * len(row))()
        for token, logit in enumerate(row.tolist()):
            data[token] = lib.llama_token_data(token, logit, 0.0)
        array = lib.llama_token_data_array(data, len(row), -1, False)
        lib.llama_sampler_apply(chain, ctypes.byref(array))
        if array.selected >= 0:
            chosen.append(array.data[array.selected].id)
    logits = np.full(len(row), -np.inf)
    for place in range(array.size):
        logits[array.data[place].id] = array.data[place].logit
    lib.llama_sampler_free(chain)
    options.setdefault("chosen", chosen[:-1]) if chosen else None
    return softmax(logits)


def transformers_chances(row: np.ndarray, processor: Any) -> np.ndarray:
    """Probabilities that one of transformers' processors or warpers leaves."""
    scores = processor(torch.tensor([HISTORY]), torch.tensor(row[None]))[0]
    return softmax(scores.double().numpy())


def softmax(logits: np.ndarray) -> np.ndarray:
    """As float32."""
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum()).astype(np.float32)


LLAMA_CPP_CASES: list[dict[str, Any]] = [
    *({**OFF, "top_k": k} for k in (1, 7, 40)),
    *({**OFF, "top_p": p} for p in (0.3, 0.95)),
    *({**OFF, "min_p": p} for p in (0.05, 0.5)),
    *({**OFF, "temperature": t} for t in (0.3, 0.8, 1.9)),
    *({**OFF, "top_n_sigma": n} for n in (0.5, 1.0, 2.5)),
    *({**OFF, "typical_p": p} for p in (0.2, 0.7, 0.95)),
    *({**OFF, "xtc_probability": 1.0, "xtc_threshold": t} for t in (0.004, 0.05, 0.3)),
    {**OFF, "temperature": 0.8, "dynatemp_range": 0.5},
    {**OFF, "temperature": 0.3, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0},
    {**OFF, "repeat_penalty": 1.3, "repeat_last_n": 4},
    {**OFF, "dry_multiplier": 0.8},
    {**OFF, "dry_multiplier": 1.5, "dry_base": 2.0, "dry_allowed_length": 1, "dry_last_n": 7},
    {**OFF, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {**OFF, "repeat_penalty": 1.2, "frequency_penalty": -0.5, "presence_penalty": 0.1},
    {},
    {
        "temperature": 1.1,
        "typical_p": 0.9,
        "xtc_probability": 1.0,
        "xtc_threshold": 0.08,
        "dynatemp_range": 0.4,
        "repeat_penalty": 1.1,
    },
    {
        **OFF,
        "samplers": ["temperature", "min_p", "penalties", "top_k"],
        "temperature": 0.6,
        "min_p": 0.02,
        "top_k": 9,
        "repeat_penalty": 1.4,
    },
    {
        **OFF,
        "samplers": ["top_k", "temperature", "typ_p", "xtc"],
        "temperature": 1.5,
        "typical_p": 0.8,
        "top_k": 30,
        "xtc_probability": 1.0,
        "xtc_threshold": 0.02,
    },
]
MIROSTAT_CASES: list[dict[str, Any]] = [
    {**OFF, "mirostat": version, "mirostat_tau": tau, "mirostat_eta": eta}
    for version, tau, eta in ((1, 3.0, 0.3), (1, 5.0, 0.1), (2, 3.0, 0.3), (2, 5.0, 0.1))
]
MIROSTAT_RUNS = 4
TRANSFORMERS_CASES: list[tuple[dict[str, Any], Any]] = [
    ({**OFF, "temperature": 0.7}, hf.TemperatureLogitsWarper(0.7)),
    ({**OFF, "top_k": 12}, hf.TopKLogitsWarper(12)),
    ({**OFF, "top_p": 0.8}, hf.TopPLogitsWarper(0.8)),
    ({**OFF, "min_p": 0.1}, hf.MinPLogitsWarper(0.1)),
    ({**OFF, "typical_p": 0.6}, hf.TypicalLogitsWarper(0.6)),
    ({**OFF, "repeat_penalty": 1.5, "repeat_last_n": -1}, hf.RepetitionPenaltyLogitsProcessor(1.5)),
    ({**OFF, "logit_bias": {5: False, 17: False}}, hf.SuppressTokensLogitsProcessor([5, 17])),
    (
        {**OFF, "logit_bias": {5: 1.5, 72: -2.0}},
        hf.SequenceBiasLogitsProcessor([[[5], 1.5], [[72], -2.0]]),
    ),
    (
        {**OFF, "min_tokens": 22, "end_tokens": [2]},
        hf.MinLengthLogitsProcessor(22, 2, device="cpu"),
    ),
]


def main() -> None:
    """Compute all cases and write them."""
    rows = fixed_logits()
    cases, chances = [], []

    def add(library: str, options: dict[str, Any], number: int, found: np.ndarray) -> None:
        cases.append({"library": library, "logits": number, "options": options})
        chances.append(found)

    for number, row in enumerate(rows):
        for options in LLAMA_CPP_CASES:
            # Its entropy of masked logits is no number.
            if number < 2 or "typical_p" not in options:
                add("llama.cpp", options, number, llama_cpp_chances(row, options))
        for options in MIROSTAT_CASES:
            if number < 2:
                options = dict(options)
                found = llama_cpp_chances(row, options, MIROSTAT_RUNS)
                add("llama.cpp", options, number, found)
        for options, processor in TRANSFORMERS_CASES:
            # Its biases and typical set are NaN where logits are masked.
            if number < 2:
                add("transformers", options, number, transformers_chances(row, processor))
    np.savez_compressed(
        FILE, logits=rows, history=HISTORY, cases=json.dumps(cases), chances=np.stack(chances)
    )
    print(f"{len(cases)} cases, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
