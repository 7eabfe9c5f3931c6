"""A run of the whole suite: on all cores, after the kernels that it needs are compiled together.

For a run that names no file. One that does starts at once, in one process, and compiles what its
tests ask for. Which tests there are, and what they need besides kernels, is not known here.
"""

from __future__ import annotations

import contextlib
import os

import pytest

MAX_WORKERS = 4
"""Each collects the suite anew, and holds models of its own."""
SPREADING = "worksteal"
"""Workers begin with equal parts of the suite in its order, so that fixtures of modules are made
once; whoever is done first helps another."""


def is_whole(config: pytest.Config) -> bool:
    """Whether no file is named, and tests are run, as nobody's worker."""
    is_worker = hasattr(config, "workerinput")
    names_none = config.args_source is not pytest.Config.ArgsSource.ARGS
    return names_none and not is_worker and not config.option.collectonly


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Ask pytest-xdist, where it is and nobody told it otherwise, for a worker a core."""
    options = config.option
    is_watched = options.usepdb or options.capture == "no"
    if not is_whole(config) or is_watched or not config.pluginmanager.hasplugin("xdist"):
        return
    if options.numprocesses is None and options.dist == "no":
        options.numprocesses = min(MAX_WORKERS, os.cpu_count() or 1)
        options.dist = SPREADING


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile what the default run needs and the cache lacks: on all cores, each kernel once."""
    if is_whole(session.config) and not session.config.option.keyword:
        _compile_all(session.config.pluginmanager.get_plugin("terminalreporter"))


def _compile_all(reporter: pytest.TerminalReporter | None) -> None:
    from harness.caches import ENGINE_KERNELS, OTHER_KERNELS, READ_ONLY_KERNELS, cache_kernels
    from harness.card_compiler import DEFAULT_CPU_FORM, DEFAULT_RUN, compiled
    from harness.kernels import TIERS, sampled_kernels

    from edgellama.engine.usual_kernels import usual_kernels
    from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels, read_or_compile
    from edgellama.kernels_cpu.signatures import ONE_THREAD_SIGNATURES
    from edgellama.quant.errors import EdgellamaError

    one_thread = (kernel.name for kernel in ONE_THREAD_SIGNATURES)
    names = {*OTHER_KERNELS, *one_thread}
    for tier in TIERS:
        more = [*usual_kernels(), *READ_ONLY_KERNELS, *ENGINE_KERNELS] if tier is TIERS[0] else ()
        wanted = sampled_kernels(tier, sorted({*names, *cache_kernels(tier), *more}))
        if CompiledKernels(tier).are_there(wanted):
            continue
        if reporter:
            reporter.write_line(f"compiling up to {len(wanted)} kernels for {tier.name} ...")
        with contextlib.suppress(EdgellamaError):  # Whoever needs the kernel meets it.
            read_or_compile(wanted, tier)
    for target, kernels in {**DEFAULT_RUN, TIERS[0].name: DEFAULT_CPU_FORM}.items():
        with contextlib.suppress(AssertionError):
            compiled(target, kernels)
