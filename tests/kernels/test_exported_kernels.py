"""Kernels that an application ships: found, checked, and used instead of compiling."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner as InProcess
from conftest import CliRunner

from edgellama.cli.application import root
from edgellama.kernels_cpu.compiling import compile_pool, exported_kernels
from edgellama.kernels_cpu.compiling.code_cache import (
    CompiledKernels,
    choose_tier,
    read_or_compile,
)
from edgellama.kernels_cpu.compiling.exported_kernels import (
    EXPORT_NAME,
    EXPORT_VARIABLE,
    MANIFEST_NAME,
    ExportedKernels,
    write_exported,
)
from edgellama.kernels_cpu.machine.cpu import GENERIC, TIER_VARIABLE, available_tiers, select_tier
from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE
from edgellama.quant.errors import InvalidOptionError, KernelError

KERNEL = "add_bias"
MADE_BY = "edgellama test"


@pytest.fixture(scope="module")
def code() -> dict[str, bytes]:
    """Object code of one kernel, by name, for the generic tier."""
    return {name: found.content for name, found in read_or_compile([KERNEL], GENERIC).items()}


@pytest.fixture
def folder(tmp_path: Path, code: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported folder that EDGELLAMA_KERNELS names, beside an empty cache."""
    path = tmp_path / "kernels"
    write_exported(path, {GENERIC.name: code}, made_by=MADE_BY)
    monkeypatch.setenv(EXPORT_VARIABLE, str(path))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return path


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest's content."""
    content: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
    return content


def write_manifest(folder: Path, content: object) -> None:
    """Another manifest in its place."""
    (folder / MANIFEST_NAME).write_text(json.dumps(content), "utf-8")


def test_what_is_shipped_is_not_compiled(folder: Path, tmp_path: Path) -> None:
    """A shipped kernel is loaded from its folder; nothing is compiled or written."""
    progress: list[tuple[int, int]] = []
    kernels = CompiledKernels(GENERIC)
    kernels.ensure([KERNEL], lambda *pair: progress.append(pair), ["sum_squares"])
    assert kernels.address(KERNEL) and progress == [] and kernels.num_compiled == 0
    assert not (tmp_path / "cache").exists()


def test_what_is_not_shipped_is_compiled(folder: Path, tmp_path: Path) -> None:
    """A kernel that the folder lacks is compiled into the cache, without companions."""
    kernels = CompiledKernels(GENERIC)
    kernels.ensure([KERNEL, "sum_squares"], None, ["merge_attention"])
    assert kernels.num_compiled == 1
    assert [path.stem for path in (tmp_path / "cache").rglob("*.o")] == ["sum_squares"]


def test_nothing_compiles_without_numba(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Numba a missing kernel is an error that names it and how to ship it."""
    monkeypatch.setattr(compile_pool, "find_spec", lambda name: None)
    CompiledKernels(GENERIC).ensure([KERNEL])
    with pytest.raises(
        KernelError, match=rf"sum_squares must be .*generic.*--export FOLDER; {EXPORT_VARIABLE}"
    ):
        CompiledKernels(GENERIC).ensure(["sum_squares"])


def test_the_best_shipped_tier_is_chosen(
    folder: Path, code: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU takes the fastest shipped tier that it can run; one asked for by name counts more."""
    monkeypatch.delenv(TIER_VARIABLE, raising=False)
    assert choose_tier() == GENERIC
    best = available_tiers()[0]
    assert choose_tier(best.name) == best
    write_exported(folder, {tier.name: code for tier in available_tiers()}, made_by=MADE_BY)
    assert choose_tier() == best
    write_exported(folder, {"other": code}, made_by=MADE_BY)
    assert choose_tier() == select_tier()


@pytest.mark.parametrize("place", ["executable", "bundle"])
def test_a_frozen_application_finds_its_own(
    place: str, code: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels beside the executable, or in the bundle, are found by a frozen application alone."""
    write_exported(tmp_path / place / EXPORT_NAME, {GENERIC.name: code}, made_by=MADE_BY)
    monkeypatch.delenv(EXPORT_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "executable" / "app"))
    monkeypatch.setattr(
        exported_kernels, "SOURCE_FOLDER", tmp_path / "bundle" / "edgellama" / "kernels_cpu"
    )
    assert ExportedKernels.find() is None
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    found = ExportedKernels.find()
    kernel = found.read(GENERIC.name, KERNEL) if found else None
    assert kernel is not None and kernel.content == code[KERNEL]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "other"), ("version", 2), ("system", "plan9-vax"), ("sources", "0" * 64),
        ("sources", None), ("tiers", None), ("tiers", {"generic": []}),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit(folder: Path, key: str, value: object) -> None:
    """Kernels of other sources, of another system or form are refused with what differs."""
    write_manifest(folder, manifest_of(folder) | {key: value})
    with pytest.raises(
        KernelError, match=rf"manifest\.json: {key} (is|are) .*make the folder anew"
    ):
        CompiledKernels(GENERIC)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b"[" * 100_000, b" " * (2 << 20)], ids=lambda c: c[:4].hex()
)
def test_what_is_no_manifest(folder: Path, content: bytes) -> None:
    """A file that is no manifest is refused by its name."""
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(KernelError, match=r"manifest\.json: no manifest of kernels"):
        CompiledKernels(GENERIC)


def test_damaged_code(folder: Path) -> None:
    """Code that is not what the manifest names never runs."""
    path = folder / GENERIC.name / f"{KERNEL}.o"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(KernelError, match=r"add_bias\.o: not the file that manifest\.json names"):
        CompiledKernels(GENERIC).ensure([KERNEL])
    path.unlink()
    with pytest.raises(KernelError, match=r"add_bias\.o: cannot be read"):
        CompiledKernels(GENERIC).ensure([KERNEL])


def test_code_that_is_no_object(folder: Path, code: dict[str, bytes]) -> None:
    """Code that the manifest names and that is no kernel is refused by its path."""
    write_exported(folder, {GENERIC.name: {KERNEL: code[KERNEL][:-1]}}, made_by=MADE_BY)
    with pytest.raises(KernelError, match=r"add_bias\.o: not an object file.*make the folder anew"):
        CompiledKernels(GENERIC).ensure([KERNEL])


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named by EDGELLAMA_KERNELS must be there."""
    monkeypatch.setenv(EXPORT_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(KernelError, match="missing: cannot be read"):
        CompiledKernels(GENERIC)


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
@pytest.mark.parametrize("name", ["", MANIFEST_NAME])
def test_a_folder_that_everybody_may_write_to(folder: Path, name: str) -> None:
    """What every user could replace is refused, with the command that mends it."""
    (folder / name).chmod(0o777)
    with pytest.raises(KernelError, match=r"written to by everybody; run: chmod -R o-w"):
        CompiledKernels(GENERIC)


def test_other_files_are_not_overwritten(
    folder: Path, code: dict[str, bytes], tmp_path: Path
) -> None:
    """An export replaces an earlier one, and no folder with anything else in it."""
    write_exported(folder, {"other": code}, made_by=MADE_BY)
    assert set(manifest_of(folder)["tiers"]) == {"other"}
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST_NAME, "other"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(InvalidOptionError, match="mine holds other files; allowed"):
        write_exported(mine, {"other": code}, made_by=MADE_BY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels", "mine"]


def test_exported_by_the_command(
    run_cli: CliRunner, smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command exports for a model is all that it needs: another home compiles nothing.

    What is exported for graphics cards is left to ``test_card_commands``.
    """
    folder = tmp_path / "kernels"
    monkeypatch.setattr("edgellama.cuda.ptx_cache.ptx_of", lambda *_: {})
    command = ["warmup", str(smollm2_path), "--kv", "f16", "--export", str(folder)]
    made = InProcess().invoke(root, command)
    assert made.exit_code == 0, made.output
    assert f"{folder}: kernels: " in made.output
    environment = {EXPORT_VARIABLE: str(folder), CACHE_VARIABLE: str(tmp_path / "empty-cache")}
    arguments = ("generate", smollm2_path, "-p", "Hello", "-n", "3", "--temperature", "0")
    used = run_cli(*arguments, environment=environment)
    assert used.returncode == 0 and "compiling" not in used.stderr
    assert not (tmp_path / "empty-cache").exists()
    assert used.stdout == run_cli(*arguments).stdout


def test_other_tiers_of_this_architecture(run_cli: CliRunner, tmp_path: Path) -> None:
    """A tier that nobody knows is refused with those that can be exported here."""
    result = run_cli("warmup", "--export", tmp_path / "k", "--tiers", "sse9")
    assert result.returncode == 1
    assert "tier 'sse9' cannot be compiled for here; allowed:" in result.stderr
    assert not (tmp_path / "k").exists()
