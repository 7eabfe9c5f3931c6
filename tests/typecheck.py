"""Type-checks the packages under their import names: ``python tests/typecheck.py``.

mypy cannot follow ``package_dir``, so it sees ``edgellama.quant`` and its siblings as unknown
and every call across packages as unchecked. A copy in the installed layout cures that. The
benchmarks are checked with them, as the scripts that they are.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_TREE = REPOSITORY / "build" / "typecheck"
BENCHMARKS = "benchmarks"


def source_folders() -> dict[str, str]:
    """``setup.py``'s table: folder by import package."""
    for node in ast.parse((REPOSITORY / "setup.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SOURCE_FOLDERS":
            folders: dict[str, str] = ast.literal_eval(node.value)
            return folders
    raise LookupError("setup.py has no SOURCE_FOLDERS")


def copy_installed_layout(tree: Path) -> None:
    """Fills ``tree`` with the sources as an installation lays them out."""
    shutil.rmtree(tree, ignore_errors=True)
    places = {folder: package.replace(".", "/") for package, folder in source_folders().items()}
    for folder, place in {**places, BENCHMARKS: BENCHMARKS}.items():
        shutil.copytree(
            REPOSITORY / folder,
            tree / place,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )


def check_types(tree: Path) -> tuple[int, str]:
    """mypy's exit code and its report about ``tree``, with the repository's own file names."""
    command = [sys.executable, "-m", "mypy", "-p", "edgellama"]
    for script in sorted((tree / BENCHMARKS).glob("*.py")):
        command += ["-m", script.stem]
    command += ["--config-file", str(REPOSITORY / "pyproject.toml")]
    command += ["--cache-dir", str(REPOSITORY / ".mypy_cache")]
    environment = {**os.environ, "MYPYPATH": BENCHMARKS}
    result = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, _with_repository_names(result.stdout + result.stderr)


def _with_repository_names(report: str) -> str:
    for package, folder in source_folders().items():
        installed = package.replace(".", os.sep) + os.sep
        report = re.sub(rf"^{re.escape(installed)}", folder + "/", report, flags=re.MULTILINE)
    return report


if __name__ == "__main__":
    copy_installed_layout(DEFAULT_TREE)
    exit_code, findings = check_types(DEFAULT_TREE)
    print(findings, end="")
    sys.exit(exit_code)
