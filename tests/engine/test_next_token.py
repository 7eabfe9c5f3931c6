"""A step that repeats the one before it with another token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.engine import Engine
from edgellama.engine.pages.kv_cache import KVCache
from edgellama.engine.program.hooks import RowHook
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.kernels_cpu.layouts import PAGE_POSITIONS
from edgellama.quant.errors import EdgellamaError, GenerationCancelled, InvalidOptionError
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(layers=2, context_length=1024, weight_format="Q8_0")
MAX_CHANGES = 12
Rows = npt.NDArray[np.float32]
Change = tuple[str, int]
CHANGES = st.one_of(
    st.tuples(st.just("next"), st.integers(1, 5)),
    st.tuples(st.just("truncate"), st.integers(0, 130)),
    st.tuples(st.just("prompt"), st.integers(1, 200)),
    st.tuples(st.just("fork"), st.just(0)),
    st.tuples(st.just("other"), st.just(0)),
    st.tuples(st.just("reuse"), st.integers(2, 200)),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFFile]:
    """A small model."""
    path = write_tiny_llama(tmp_path_factory.mktemp("next") / "tiny.gguf", MODEL)
    with GGUFFile(path) as file:
        yield file


@pytest.fixture(scope="module")
def engine(file: GGUFFile) -> Iterator[Engine]:
    """An engine on two threads, whose pages are found again."""
    with Engine(file, num_threads=2, cache_limit=1 << 22) as engine:
        yield engine


@pytest.fixture(scope="module")
def ordinary(file: GGUFFile) -> Iterator[Engine]:
    """The same, which never repeats a step."""
    patched = pytest.MonkeyPatch.context()
    with Engine(file, num_threads=2, cache_limit=1 << 22) as engine, patched as patch:
        patch.setattr(engine._steps, "run_next", lambda *arguments, **how: None)
        yield engine


def count_ordinary(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of tokens of each ordinary step."""
    assert engine._machine.runner is not None
    run, counts = engine._machine.runner.run, list[int]()

    def counted(segments, run_ops):  # type: ignore[no-untyped-def]
        counts.append(sum(segment.num_tokens for segment in segments))
        return run(segments, run_ops)

    monkeypatch.setattr(engine._machine.runner, "run", counted)
    return counts


def test_a_text_repeats_its_steps_within_a_page(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the tokens that follow a prompt, those at a page's start and the first are ordinary."""
    cache = engine.new_cache(512)
    counts = count_ordinary(engine, monkeypatch)
    engine.forward(range(100), cache)
    for token in range(60):
        engine.forward([token], cache)
    assert counts == [100, 1, 1]


def logits_of(engine: Engine, changes: list[Change], num_tokens: int) -> list[Rows]:
    """The logits after each of some changes of a sequence of so many tokens."""
    cache, other, forks = engine.new_cache(2048), engine.new_cache(64), list[KVCache]()
    found = [engine.forward(prompt_of(num_tokens), cache)]
    for what, number in changes:
        if what == "truncate":
            cache.truncate(max(0, cache.length - number))
        elif what == "prompt":
            found.append(engine.forward(prompt_of(number), cache))
        elif what == "fork":
            forks.append(cache.fork())
            found.append(engine.forward([5], forks[-1]))
        elif what == "other":
            found.append(engine.forward([3], other))
        elif what == "reuse":
            prompt = prompt_of(number)
            found.append(engine.forward(prompt[cache.reuse(prompt) :], cache))
        found += [engine.forward([token], cache) for token in range(number % 7)]
    return found


def prompt_of(num_tokens: int) -> list[int]:
    """Token ids of a prompt; longer ones begin with shorter ones."""
    return [7 * number % 90 for number in range(num_tokens)]


@settings(max_examples=30, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=MAX_CHANGES), st.integers(1, 300))
def test_whatever_happened_before_the_bits_are_those_of_ordinary_steps(
    engine: Engine, ordinary: Engine, changes: list[Change], num_tokens: int
) -> None:
    """Truncating, forking, other sequences and found pages never make a repeated step wrong."""
    for engine_used in (engine, ordinary):
        engine_used.pool().clear()
    for one, other in zip(
        logits_of(engine, changes, num_tokens),
        logits_of(ordinary, changes, num_tokens),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_page_that_others_may_find_is_not_written(engine: Engine, ordinary: Engine) -> None:
    """Tokens after a truncation into a page that is full leave what the pool has of it."""
    found = []
    for used in (engine, ordinary):
        prompt = [11 * number % 90 for number in range(PAGE_POSITIONS)]
        cache, later = used.new_cache(512), used.new_cache(512)
        used.forward(prompt[:-1], cache)
        used.forward(prompt[-1:], cache)
        cache.truncate(100)
        used.forward([1], cache)
        used.forward([2], cache)
        assert later.reuse([*prompt, 3]) == PAGE_POSITIONS
        found.append(used.forward([3], later))
    np.testing.assert_array_equal(*found)


def test_a_restored_sequence_is_read_from_its_own_pages(engine: Engine, ordinary: Engine) -> None:
    """After other pages have come in place of a sequence's, the next step reads those."""
    found = []
    for used in (engine, ordinary):
        cache, other = used.new_cache(512), used.new_cache(512)
        used.forward([8] * 40, other)
        used.forward(prompt_of(39), cache)
        used.forward([1], cache)
        (page,) = other.pages
        assert page is not None
        cache.restore(other.tokens, [cache.pool.adopt(page.memory.copy())], 40)
        found.append(used.forward([3], cache))
    np.testing.assert_array_equal(*found)


def test_a_hook_sees_the_next_token(engine: Engine) -> None:
    """A hook that is added between two tokens sees the second."""
    cache = engine.new_cache(512)
    engine.forward(range(40), cache)
    engine.forward([1], cache)
    seen: list[int] = []
    engine.hooks = (RowHook(lambda rows, step: seen.extend(step.tokens), "residual", (0,)),)
    engine.forward([2], cache)
    engine.hooks = ()
    assert seen == [2]


def test_wrong_tokens_and_full_contexts_are_refused_as_ever(engine: Engine) -> None:
    """A step that could be repeated refuses what an ordinary one does."""
    cache = engine.new_cache(42)
    engine.forward(range(40), cache)
    engine.forward([1], cache)
    with pytest.raises(InvalidOptionError, match="token ids from -1"):
        engine.forward([-1], cache)
    with pytest.raises(InvalidOptionError, match="whole numbers"):
        engine.forward([0.5], cache)  # type: ignore[list-item]
    engine.forward([1], cache)
    with pytest.raises(EdgellamaError, match="do not fit"):
        engine.forward([1], cache)


def test_a_cancelled_step_adds_nothing(engine: Engine, ordinary: Engine) -> None:
    """A set flag ends a repeated step too, with the same error; the next one is right."""
    found = []
    for used in (engine, ordinary):
        cache, token = used.new_cache(512), CancelToken()
        used.forward(range(40), cache)
        used.forward([1], cache)
        token.cancel()
        with pytest.raises(GenerationCancelled):
            used.forward([2], cache, cancelled=token)
        assert cache.length == 41
        found.append(used.forward([3], cache))
    np.testing.assert_array_equal(*found)


def test_ctrl_c_in_a_step_leaves_the_sequence_as_it_was(
    engine: Engine, ordinary: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted repeated step adds no token, holds no lock, and the next one is right."""
    caches = [used.new_cache(512) for used in (engine, ordinary)]
    for used, cache in zip((engine, ordinary), caches, strict=True):
        used.forward(range(40), cache)
        used.forward([1], cache)

    def interrupt(gives_rows: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine._machine.runner, "first_row", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.forward([2], caches[0])
    assert caches[0].length == 41
    np.testing.assert_array_equal(engine.forward([3], caches[0]), ordinary.forward([3], caches[1]))
