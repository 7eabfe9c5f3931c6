"""The code's style and types, checked by the real tools in real processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY
from typecheck import check_types

WRONG_CALL = '''"""A call across packages with a wrong type."""

from edgellama.quant.formats import FORMATS_BY_NAME

FORMATS_BY_NAME["Q4_0"].row_bytes("32")
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packages of the sources, one of them nearly empty."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "quant", folder / "edgellama" / "quant")
    (folder / "edgellama" / "__init__.py").touch()
    return folder


def test_ruff_has_no_complaint() -> None:
    """Every Python file of the repository passes the linter."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", str(REPOSITORY)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_mypy_has_no_complaint() -> None:
    """All packages together pass mypy in its strict mode."""
    exit_code, report = check_types(REPOSITORY)
    assert exit_code == 0, report


def test_mypy_sees_types_across_packages(tree: Path) -> None:
    """A wrong argument in a call from one package into another is reported."""
    module = tree / "edgellama" / "wrong_call.py"
    module.write_text(WRONG_CALL, "utf-8")
    try:
        exit_code, report = check_types(tree, "edgellama.wrong_call")
    finally:
        module.unlink()
    assert exit_code == 1
    assert 'Argument 1 to "row_bytes" of "Format" has incompatible type "str"' in report
