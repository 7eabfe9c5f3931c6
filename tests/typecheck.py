"""Type-checks packages, scripts and the examples of pages: ``python tests/typecheck.py``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from places import REPOSITORY

BENCHMARKS = "benchmarks"
SCRIPTS = (BENCHMARKS, "examples", "examples/desktop")
LINKED = ("quant", "convert", "kernels_cpu")
"""Folders of the repository that stand in ``edgellama`` as links."""


def check_types(tree: Path, module: str | None = None) -> tuple[int, str]:
    """mypy's exit code and its report about ``tree``, with the repository's own file names.

    ``module`` is all that is looked at, with what it imports; None is everything.
    """
    command = [sys.executable, "-m", "mypy"]
    if module is not None:
        command += ["-m", module]
    else:
        command += ["-p", "edgellama"]
        for script in sorted(path for folder in SCRIPTS for path in (tree / folder).glob("*.py")):
            command += ["-m", script.stem]
    command += ["--config-file", str(REPOSITORY / "pyproject.toml")]
    command += ["--cache-dir", str(REPOSITORY / ".mypy_cache")]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(SCRIPTS)}
    result = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, _with_repository_names(result.stdout + result.stderr)


def _with_repository_names(report: str) -> str:
    folders = "|".join(LINKED)
    return re.sub(rf"^edgellama[/\\]({folders})(?=[/\\])", r"\1", report, flags=re.MULTILINE)


if __name__ == "__main__":
    exit_code, findings = check_types(REPOSITORY)
    print(findings, end="")
    doc_examples = Path(__file__).with_name("doc_examples.py")
    sys.exit(exit_code or subprocess.run([sys.executable, doc_examples], check=False).returncode)
