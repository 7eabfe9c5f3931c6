"""What stages cost: a text's token of one process beside the same through stages, in alternation.

Stages run in this process; with --ray all but the first are actors of a Ray cluster that is started
on this machine. One stage computes at a time, so that all have the same threads as the whole.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edgellama.cluster.driver.spread_engine import SpreadEngine
from edgellama.cluster.ray_stages import start_stages
from edgellama.cluster.stage_actor import StageOrder
from edgellama.cluster.stages.local_stage import LocalStage
from edgellama.cluster.stages.stage import Stage
from edgellama.cluster.stages.stage_call import StageHandle
from edgellama.engine.engine import Engine
from edgellama.engine.model_identity import model_identity
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.generation.decoding.decoding import Decoding
from edgellama.generation.text_request import Request
from edgellama.quant.gguf.file import GGUFFile
from edgellama.sampling.options import SamplingOptions
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

CONTEXT_LENGTH = 2048
PROMPT_TOKENS = 100
RAY_STARTS_S = 8.0
"""So long processes of a new cluster, such as those of its dashboard, import what they need."""


def layer_ranges(num_layers: int, num_stages: int) -> list[range]:
    """So many ranges of about the same length."""
    ends = [num_layers * number // num_stages for number in range(num_stages + 1)]
    return [range(ends[number], ends[number + 1]) for number in range(num_stages)]


def local_stages(file: GGUFFile, layers: Sequence[range], num_threads: int) -> list[StageHandle]:
    """Stages in this process."""
    return [LocalStage(partial(Stage, file, each, num_threads=num_threads)) for each in layers]


def ray_stages(
    file: GGUFFile, layers: Sequence[range], num_threads: int, *, has_lines: bool
) -> list[StageHandle]:
    """The first stage here, the others as actors of a cluster that ends with this process."""
    import ray

    ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    identity, options = model_identity(file), {"num_threads": num_threads}
    path = str(file.path.resolve())
    orders = [StageOrder(path, each, identity, None, options) for each in layers[1:]]
    stages = start_stages(orders, has_line=has_lines)
    time.sleep(RAY_STARTS_S)
    return [*local_stages(file, layers[:1], num_threads), *stages]


def token_seconds(
    engines: Sequence[Engine | SpreadEngine],
    tokenizer: Tokenizer,
    rounds: int,
    block: int,
    needs_logits: bool,
) -> list[list[tuple[float, float]]]:
    """Of each engine the median token and the quickest one of every block, in alternation."""
    prompt = np.random.default_rng(0).integers(0, engines[0].config.vocab_size, PROMPT_TOKENS)
    sampling = SamplingOptions(seed=1, ignore_eos=True)
    processors = (lambda logits, tokens: logits,) if needs_logits else ()
    request = Request(prompt.tolist(), sampling, max_tokens=block, processors=processors)
    caches = [engine.new_cache(CONTEXT_LENGTH) for engine in engines]
    seconds: list[list[tuple[float, float]]] = [[] for _ in engines]
    for number in range(rounds + 1):
        order = range(len(engines)) if number % 2 else reversed(range(len(engines)))
        for index in order:
            decoding = Decoding(engines[index], tokenizer, caches[index], request, CancelToken())
            times = [time.perf_counter() for chunk in decoding.steps() if chunk.token is not None]
            if number:  # The first round warms up.
                found = [later - sooner for sooner, later in itertools.pairwise(times)]
                seconds[index].append((statistics.median(found), min(found)))
    return seconds


def main() -> None:
    """Print the median token of both, and the median of the rounds' own ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--block", type=int, default=8, help="tokens of each in a round")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument(
        "--actor-calls", action="store_true", help="with --ray: no connections beside it"
    )
    parser.add_argument(
        "--logits", action="store_true", help="have logits sent, as for functions of users"
    )
    arguments = parser.parse_args()
    with GGUFFile(arguments.model) as file, Engine(file, num_threads=arguments.threads) as whole:
        layers = layer_ranges(whole.config.block_count, arguments.stages)
        on_ray = partial(ray_stages, has_lines=not arguments.actor_calls)
        make = on_ray if arguments.ray else local_stages
        spread = SpreadEngine(file, make(file, layers, arguments.threads))
        try:
            found = token_seconds(
                [whole, spread],
                load_tokenizer(file.metadata, file.path),
                arguments.rounds,
                arguments.block,
                arguments.logits,
            )
        finally:
            spread.close()
    ratios = [staged[0] / alone[0] for alone, staged in zip(*found, strict=True)]
    alone, staged = (1e3 * statistics.median(median for median, _ in each) for each in found)
    quickest = [1e3 * min(least for _, least in each) for each in found]
    how = f"{' on Ray' if arguments.ray else ''}{', with logits' if arguments.logits else ''}"
    how += ", by calls of actors" if arguments.actor_calls else ""
    print(
        f"{arguments.model.name}, {arguments.threads} threads, {arguments.stages} stages{how}: "
        f"whole {alone:.3f} ms, stages {staged:.3f} ms, "
        f"{statistics.median(ratios) - 1:+.1%} a token; the quickest {quickest[0]:.3f} and "
        f"{quickest[1]:.3f} ms, {quickest[1] / quickest[0] - 1:+.1%}"
    )


if __name__ == "__main__":
    main()
