"""A batch on Ray Data: workers as actors, one for each machine, which get blocks of lines.

If a worker is lost, another one runs its block again. The caller chooses the lines and keeps the
texts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from edgellama.cluster.batch_worker import REFUSED, BatchTask, BatchWorker
from edgellama.cluster.ray_cluster import import_ray
from edgellama.generation.batches.batch_width import MOST_WIDTH
from edgellama.quant.errors import EdgellamaError

BLOCK_WIDTHS = 2
"""Lines of a block, as a multiple of the texts that a worker makes at once."""


def texts_on_ray(
    task: BatchTask, lines: Sequence[str], num_workers: int | None = None
) -> Iterator[dict[str, Any]]:
    """Lines of texts and errors, each as soon as its block is done; ``lines`` have ids.

    ``num_workers`` None: one for each machine of the cluster that this process is connected to.
    EdgellamaError if a worker cannot work, or no machine is left.
    """
    ray = import_ray()
    data = import_ray("data")
    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if num_workers is None:
        num_workers = sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1
                          for node in ray.nodes())  # fmt: skip
    block = BLOCK_WIDTHS * (task.width or MOST_WIDTH)
    num_blocks = -(-len(lines) // block)
    texts = data.from_items([{"line": line} for line in lines], override_num_blocks=num_blocks)
    texts = texts.map_batches(
        BatchWorker,
        fn_constructor_args=(task,),
        batch_size=None,
        compute=data.ActorPoolStrategy(size=max(1, min(num_workers, num_blocks))),
        num_cpus=1,
    )
    try:
        for row in texts.iter_rows():
            line: dict[str, Any] = json.loads(row["line"])
            if REFUSED in line:
                raise EdgellamaError(line[REFUSED])
            yield line
    except ray.exceptions.RayError as error:
        raise EdgellamaError(f"the batch on Ray has ended: {error}") from error
