"""Applications frozen by PyInstaller, moved away, run in an empty home, and updated."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama
from test_packaging import copy_checkout

from edgellama.kernels_cpu.compiling.exported_kernels import EXPORT_NAME, EXPORT_VARIABLE
from edgellama.kernels_cpu.machine.cpu import GENERIC, TIER_VARIABLE, select_tier
from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE

pytest.importorskip("PyInstaller")
pytestmark = pytest.mark.slow

APPLICATION = """
import sys
from edgellama import Engine, GGUFFile, Llama

def told(done, total):
    print("compiling", done, total, file=sys.stderr)

with Llama(sys.argv[1], num_threads=2, kv_type="f16", progress=told) as llama:
    for template in (None, "chatml"):
        with llama.chat(template=template, max_tokens=4, temperature=0.5, seed=1) as chat:
            print(list(chat.send("hello").tokens))
with GGUFFile(sys.argv[1]) as file, Engine(file, num_threads=2) as engine:
    print(engine.tier.name, engine.forward([1, 2, 3], engine.new_cache(8))[0, :4].tolist())
"""
UNRELATED = ("torch", "transformers", "matplotlib", "mypy", "pytest", "hypothesis")
"""Packages that others of this environment would draw into the bundle."""
TIMEOUT_S = 1200


class Workshop:
    """A copy of the sources, an application over it, and what freezing and running it takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = copy_checkout(folder / "sources", with_links=True)
        self.home = folder / "home"
        self.home.mkdir()
        self.application = folder / "app.py"
        self.application.write_text(APPLICATION, "utf-8")
        self.model = write_tiny_llama(folder / "tiny.gguf", TinyLlama())

    def python(self, *arguments: str | Path, **environment: str) -> str:
        """Standard output of this Python with the copied sources."""
        variables = {**os.environ, "PYTHONPATH": str(self.sources), **environment}
        result = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=variables, capture_output=True,
            text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def expected(self, **environment: str) -> str:
        """What the application prints when it is not frozen."""
        return self.python(self.application, self.model, **environment)

    def freeze(self, name: str, **environment: str) -> Path:
        """The folder of the frozen application, moved to a place of its own."""
        unrelated = [name for name in UNRELATED if importlib.util.find_spec(name)]
        options = [f"--exclude-module={name}" for name in unrelated]
        self.python("-m", "PyInstaller", "-y", *options, self.application, **environment)
        return (self.folder / "dist" / "app").rename(self.folder / name)

    def run(self, application: Path, **environment: str) -> tuple[str, str]:
        """Both outputs of a frozen application that knows nothing but its home."""
        variables = {"HOME": str(self.home), **environment}
        result = subprocess.run(
            [application / "app", self.model], cwd=self.home, env=variables, capture_output=True,
            text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout, result.stderr


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A workshop of its own for a test, since the test changes it."""
    return Workshop(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="the home is given by HOME")
def test_an_updated_application_runs_its_own_kernels(workshop: Workshop) -> None:
    """It compiles once in an empty home; with other kernels it compiles anew and runs those."""
    cache = str(workshop.folder / "cache")
    application = workshop.freeze("first")
    first, told = workshop.run(application)
    assert "compiling" in told
    assert first == workshop.expected(**{CACHE_VARIABLE: cache})
    again, told = workshop.run(application)
    assert again == first and told == ""
    kernel = workshop.sources / "kernels_cpu" / "rows" / "kernels.py"
    source = kernel.read_text("utf-8")
    kernel.write_text(source.replace("/ np.float32(width)", "/ np.float32(width - 1)"), "utf-8")
    assert kernel.read_text("utf-8") != source
    updated, told = workshop.run(workshop.freeze("second"))
    assert "compiling" in told
    assert updated == workshop.expected(**{CACHE_VARIABLE: cache}) != first


@pytest.mark.skipif(sys.platform == "win32", reason="the home is given by HOME")
def test_an_application_that_ships_its_kernels(workshop: Workshop) -> None:
    """With exported kernels the bundle has no compiler, and nothing is compiled or written."""
    best, folder = select_tier(), workshop.folder / "kernels"
    tiers = f"{best.name},{GENERIC.name}"
    workshop.python(
        *("-m", "edgellama", "warmup", workshop.model, "--kv", "f16"),
        *("--export", folder, "--tiers", tiers),
    )
    application = workshop.freeze("shipped", **{EXPORT_VARIABLE: str(folder)})
    bundle = application / "_internal"
    assert (bundle / EXPORT_NAME / "manifest.json").is_file()
    assert not [name for name in ("numba", "llvmlite") if (bundle / name).exists()]
    for tier in (best.name, GENERIC.name):
        found, told = workshop.run(application, **{TIER_VARIABLE: tier})
        assert told == ""
        assert found == workshop.expected(**{TIER_VARIABLE: tier})
    assert workshop.run(application)[0].splitlines()[-1].startswith(best.name)
    assert list(workshop.home.iterdir()) == []
