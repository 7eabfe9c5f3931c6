"""PTX of the card's kernels in the user's code cache: compiled by workers once, then only read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgellama.cuda import ptx_cache
from edgellama.cuda.card_tiers import CARD_TIERS, SM_75, SM_80, tier_of_card
from edgellama.cuda.cards import MIN_CAPABILITY
from edgellama.cuda.ptx_cache import ptx_key, ptx_of
from edgellama.cuda.ptx_export import export_ptx, exported_ptx
from edgellama.cuda.signatures import CARD_SIGNATURES
from edgellama.kernels_cpu.compiling.code_cache import FOLDER_NAME
from edgellama.kernels_cpu.compiling.compile_worker import read_checked, write_checked
from edgellama.kernels_cpu.compiling.exported_kernels import EXPORT_VARIABLE, write_exported
from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE
from edgellama.kernels_cpu.signatures import Kernel
from edgellama.quant.errors import KernelError

KERNEL = next(iter(CARD_SIGNATURES))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where PTX for sm_80 goes in an empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path / FOLDER_NAME / ptx_key(SM_80)


def test_compiled_once(folder: Path) -> None:
    """The first use compiles and says so, the second reads, and damage is compiled anew."""
    progress: list[tuple[int, int]] = []
    first = ptx_of([KERNEL], (8, 6), lambda *pair: progress.append(pair))
    assert progress == [(0, 1), (1, 1)]
    assert list(first) == [KERNEL]
    assert f".visible .entry {KERNEL.name}(" in first[KERNEL]
    assert ".target sm_80" in first[KERNEL]
    assert [path.name for path in folder.glob("*.*tx*")] == [f"{KERNEL.name}.ptx"]
    progress.clear()
    assert ptx_of([KERNEL], (12, 0), lambda *pair: progress.append(pair)) == first
    assert progress == []
    path = folder / f"{KERNEL.name}.ptx"
    path.write_bytes(path.read_bytes()[:-1])
    assert ptx_of([KERNEL], (8, 0), lambda *pair: progress.append(pair)) == first
    assert progress == [(0, 1), (1, 1)]


def test_other_text_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies whole in the cache and is no PTX of the kernel is not given to a driver."""
    folder.mkdir(parents=True)
    write_checked(folder / f"{KERNEL.name}.ptx", b".visible .entry another(\n")
    asked = []
    monkeypatch.setattr(
        "edgellama.kernels_cpu.compiling.compile_pool.compile_kernels",
        lambda names, *_, **__: asked.append(names),
    )
    with pytest.raises(KernelError, match="could not be read back"):
        ptx_of([KERNEL], (8, 6))
    assert asked == [[KERNEL.name]]
    assert read_checked(folder / f"{KERNEL.name}.ptx")


def test_what_an_application_ships_comes_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PTX beside exported kernels is taken unless it is damaged or of other sources."""
    exported = tmp_path / "exported"
    write_exported(exported, {"generic": {}}, made_by="a test")
    text = f".visible .entry {KERNEL.name}(\n"
    export_ptx(exported, SM_80, {KERNEL.name: text})
    monkeypatch.setenv(EXPORT_VARIABLE, str(exported))
    assert ptx_of([KERNEL], (8, 6)) == {KERNEL: text}
    assert exported_ptx(SM_75, [KERNEL.name]) == {}
    assert not folder.exists()
    (file,) = exported.rglob("*.ptx")
    file.write_bytes(file.read_bytes()[:-1])
    assert exported_ptx(SM_80, [KERNEL.name]) == {}
    export_ptx(exported, SM_80, {KERNEL.name: text})
    monkeypatch.setattr("edgellama.cuda.ptx_export.card_source_hash", lambda: "other")
    assert exported_ptx(SM_80, [KERNEL.name]) == {}


def test_nothing_is_asked_for_nothing(folder: Path) -> None:
    """No kernels, no work."""
    assert ptx_of([], (8, 6)) == {}
    assert not folder.exists()


@pytest.mark.parametrize(
    ("capability", "tier"),
    [((7, 0), None), ((7, 5), SM_75), ((8, 0), SM_80), ((8, 9), SM_80), ((9, 0), SM_80),
     ((10, 0), SM_80), ((12, 1), SM_80)],
)  # fmt: skip
def test_cards_have_tiers(capability: tuple[int, int], tier: object) -> None:
    """Every card that can be used has the best tier that it runs."""
    assert tier_of_card(*capability) == tier
    assert (tier is None) == (capability < MIN_CAPABILITY)


def test_a_card_without_kernels_is_refused() -> None:
    """The error names the compute capability."""
    with pytest.raises(KernelError, match=r"compute capability 6\.1"):
        ptx_of([KERNEL], (6, 1))


def test_keys_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tier, each version of the CPU's sources and each of the card's has its own folder."""
    keys = {ptx_key(tier) for tier in CARD_TIERS}
    monkeypatch.setattr(ptx_cache, "card_source_hash", lambda: "other")
    keys |= {ptx_key(SM_80)}
    monkeypatch.setattr(ptx_cache, "source_hash", lambda: "other")
    keys |= {ptx_key(SM_80)}
    assert len(keys) == 4
    monkeypatch.setattr(ptx_cache, "source_hash", lambda: None)
    with pytest.raises(KernelError, match=r"edgellama/cuda/source_hash\.txt"):
        ptx_key(SM_80)


def test_an_unknown_kernel_is_a_kernel_error(folder: Path) -> None:
    """A name that no kernel has is said by the worker."""
    with pytest.raises(KernelError, match="nobody"):
        ptx_of([Kernel("nobody")], (8, 6))


def test_no_compiler_is_imported(folder: Path) -> None:
    """The user's process takes PTX without Numba and LLVM."""
    program = (
        "import sys; from edgellama.cuda import ptx_cache, modules, signatures\n"
        "print([name for name in sys.modules if name in ('numba', 'llvmlite')])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
