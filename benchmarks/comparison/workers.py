"""The two engines that are called from Python: edgellama and llama-cpp-python.

Their workers, ``run_edgellama.py`` and ``run_llama_cpp.py``, run one workload and report alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from comparison.engine import Measurement, Program, Report, Stage, Task, first_token
from comparison.figures import Quantity

FOLDER = Path(__file__).resolve().parent.parent


def speed_arguments(task: Task) -> list[str]:
    """The settings as ``workload.py`` reads them."""
    settings = task.settings
    return [
        *_common(task),
        *("--depths", ",".join(map(str, settings.depths))),
        *("--prompt-tokens", str(settings.prompt_tokens)),
        *("--decode-tokens", str(settings.decode_tokens), "--repeats", str(settings.repeats)),
    ]


def memory_arguments(task: Task) -> list[str]:
    """The whole context read once."""
    prompt = str(task.settings.context_length)
    return [*_common(task), "--prompt-tokens", prompt, "--decode-tokens", "0"]


def read(output: str, errors: str, task: Task) -> Report:
    """The report, which is the last line."""
    report = json.loads(output.strip().splitlines()[-1])
    speeds = {
        Quantity(figure, row["depth"]): row[figure]
        for figure in ("prefill", "decode")
        for row in report["speeds"]
    }
    return Report(speeds, report["description"])


WORKER = Program(speed_arguments, memory_arguments, read)


def edgellama(command: Sequence[str], patience_s: float) -> dict[Stage, Measurement]:
    """Measurements of edgellama in the interpreter that ``command`` starts."""

    def generate(task: Task) -> list[str]:
        settings = task.settings
        return [
            *(*command, "-m", "edgellama", "generate", str(task.model), "-p", task.prompt),
            *("-n", "1", "--temperature", "0", "-t", str(settings.num_threads)),
            *("-c", str(settings.context_length)),
        ]

    worker = [*command, str(FOLDER / "run_edgellama.py")]
    return {
        **WORKER.measurements(worker, patience_s),
        "start": first_token(generate, patience_s),
    }


def llama_cpp_python(command: Sequence[str], patience_s: float) -> dict[Stage, Measurement]:
    """Measurements of llama-cpp-python in the interpreter that ``command`` starts."""
    worker = [*command, str(FOLDER / "run_llama_cpp.py")]

    def script(task: Task) -> list[str]:
        settings = task.settings
        sizes = (str(settings.num_threads), str(settings.context_length))
        return [*worker, str(task.model), "--first-token", task.prompt, *sizes]

    return {
        **WORKER.measurements(worker, patience_s),
        "start": first_token(script, patience_s),
    }


def _common(task: Task) -> list[str]:
    settings = task.settings
    return [
        *(str(task.model), "--threads", str(settings.num_threads)),
        *("--context", str(settings.context_length)),
    ]
