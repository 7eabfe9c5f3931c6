"""Files that are replaced in one step, where the disk is full or refuses to write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgellama.cli.output.figures import new_figure, save_figure
from edgellama.quant.replaced_file import named_writes, replaced_file


def full_disk() -> OSError:
    """What the system says of a write: no name of a file."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    """The error names the file that was meant, which is as it was; nothing lies beside it."""
    path = tmp_path / "vectors.npy"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left") as raised, replaced_file(path) as file:
        file.write(b"new")
        raise full_disk()
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_errors_of_other_files_keep_their_names(tmp_path: Path) -> None:
    """A file that is read while another is written is not taken for it."""
    with pytest.raises(FileNotFoundError) as raised, named_writes(tmp_path / "a"):
        (tmp_path / "b").read_bytes()
    assert raised.value.filename == str(tmp_path / "b")
    with pytest.raises(OSError, match="Input/output") as nameless, named_writes(tmp_path / "a"):
        raise OSError(errno.EIO, "Input/output error")
    assert nameless.value.filename is None


def test_a_file_system_that_refuses_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system refuses to remove what is not there, too; the first error counts."""
    path = tmp_path / "talk.json"

    def refuse(place: Path, *given: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(place))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as raised, replaced_file(path):
        pass
    assert raised.value.filename == str(path)


@pytest.mark.parametrize("suffix", [".png", ".SVG", ".pdf"])
def test_plots_are_written_whole(tmp_path: Path, suffix: str) -> None:
    """A plot has the format of its ending, and a refused one leaves no file."""
    pytest.importorskip("matplotlib")
    figure, axes = new_figure(2, 2)
    axes.plot([1, 2])
    path = tmp_path / f"plot{suffix}"
    save_figure(figure, str(path))
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[suffix.lower()])
    with pytest.raises(FileNotFoundError) as raised:
        save_figure(figure, str(tmp_path / "absent" / f"plot{suffix}"))
    assert raised.value.filename == str(tmp_path / "absent" / f"plot{suffix}")
