"""Where the time goes before the first token, and how long a first compilation takes. POSIX only.

``python benchmarks/start.py [MODEL]`` starts processes that go further and further, from bare
Python to the first token, and tells the least seconds of the clock and of the processor, and the
peak memory of each. ``--cold`` compiles what the model needs into an empty cache instead.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

from processes import run_child

from edgellama.models.pulling import pull
from edgellama.models.well_known import STARTER_MODEL

STAGES = {
    "Python": "",
    "with numpy": "import numpy",
    "with all modules": "import edgellama.llama, edgellama.engine.engine, edgellama.open_model",
    "with the file": "from edgellama import GGUFFile, Llama, Engine; GGUFFile(path)",
    "with the kernels": "from edgellama import GGUFFile, Llama, Engine; Engine(GGUFFile(path))",
    "with a tokenizer": "from edgellama import Llama; Llama(path)",
    "with a token": "from edgellama import Llama; "
    "Llama(path).generate('The capital of France is', max_tokens=1, temperature=0)",
    "by the command": "from edgellama.cli import main; "
    "main(['generate', path, '-p', 'The capital of France is', '-n', '1', '--temperature', '0'])",
}
COLD = "from edgellama import Engine, GGUFFile; Engine(GGUFFile(path))"


def run(code: str, model: Path) -> tuple[float, float, float]:
    """Seconds of the clock, of the processor with all children, and MB at the peak."""
    before = _children_s()
    child = run_child([sys.executable, "-c", f"path = {str(model)!r}\n{code}"])
    return child.seconds, _children_s() - before, child.peak_memory_bytes / 1e6


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", help="the starter model by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cold", action="store_true", help="compile into an empty cache")
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # As the command line does.
    model = (options.model or pull(STARTER_MODEL)).resolve()
    if options.cold:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["EDGELLAMA_CACHE"] = cache
            seconds, processor_s, _ = run(COLD, model)
        print(f"first compilation: {seconds:.1f} s, {processor_s:.1f} s of the processor")
        return
    for code in STAGES.values():
        run(code, model)  # compiles, and warms the file up
    print("| up to | clock, s | processor, s | peak memory, MB |\n|---|---:|---:|---:|")
    found = {
        name: [run(code, model) for _ in range(options.rounds)] for name, code in STAGES.items()
    }
    for name, runs in found.items():
        seconds, processor_s, peak = (min(values) for values in zip(*runs, strict=True))
        print(f"| {name} | {seconds:.3f} | {processor_s:.3f} | {peak:.1f} |")


if __name__ == "__main__":
    main()
