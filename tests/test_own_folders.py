"""What tests use of the machine that runs them: none of its user's folders."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from edgellama.cli.chat.input import history_path
from edgellama.cli.inputs.kept import data_folder
from edgellama.kernels_cpu.machine.user_cache import cache_root, temporary_root
from edgellama.server.stores.response_store import usual_store


def test_nothing_is_the_users(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The cache is of tests alone, and what is kept or temporary lies in this run's folder."""
    assert cache_root() != user_cache_path("edgellama", appauthor=False)
    run = Path(tmp_path_factory.getbasetemp())
    assert temporary_root().is_relative_to(run)
    if sys.platform == "linux":
        for path in (usual_store(), data_folder(), history_path()):
            assert path.is_relative_to(run)


def test_plots_leave_nothing_with_the_user() -> None:
    """matplotlib's settings and its list of fonts lie in the cache of tests."""
    matplotlib = pytest.importorskip("matplotlib")
    for folder in (matplotlib.get_configdir(), matplotlib.get_cachedir()):
        assert Path(folder).is_relative_to(cache_root())


def test_files_of_tests_that_passed_do_not_stay(pytestconfig: pytest.Config) -> None:
    """Only those of failed tests are there after a run."""
    assert pytestconfig.getini("tmp_path_retention_policy") == "failed"
