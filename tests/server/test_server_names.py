"""The names by which the server's command offers models that it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import keep_kernels
from places import DATA
from reference.family import MEMBERS
from reference.relatives_gguf import write_gguf

from edgellama.cli.commands.serve_settings import _paths
from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE


def test_what_was_converted_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint's folder and a file that does not run as it is are called as they were given."""
    monkeypatch.setenv(CACHE_VARIABLE, str(keep_kernels(tmp_path / "cache")))
    folder = next(m for m in MEMBERS if m.name == "llama-2").write(tmp_path / "Tiny-Llama")
    golden = dict(np.load(DATA / "relatives_golden.npz"))
    phi, qwen = (write_gguf(tmp_path / f"{name}.gguf", name, golden) for name in ("phi3", "qwen2"))
    (tmp_path / "one").mkdir()
    inside = write_gguf(tmp_path / "one" / "inside.gguf", "qwen2", golden)
    paths = _paths(tuple(map(str, (folder, phi, qwen, inside.parent))))
    assert list(paths) == ["Tiny-Llama", "phi3", "qwen2", "inside"]
    assert paths["qwen2"] == qwen and paths["inside"] == inside
    assert {paths[name].parent.parent.name for name in ("Tiny-Llama", "phi3")} == {"converted"}
