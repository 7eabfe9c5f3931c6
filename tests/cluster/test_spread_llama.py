"""What users do with a model, over stages: vectors, ranks, adapters; and hooks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster.stage_harness import MortalStage, cut, often
from reference.adapter_files import random_gguf_factors, write_gguf_adapter
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.cluster.spread_llama import SpreadLlama
from edgellama.cluster.stages.stage import Stage
from edgellama.engine.program.hooks import StepRows
from edgellama.llama import Llama
from edgellama.quant.errors import (
    ContextLengthError,
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
    SessionFileError,
)
from edgellama.quant.gguf.file import GGUFFile

MODEL = TinyLlama(heads=3, kv_heads=1, head_size=16, layers=4, context_length=900)
TEXTS = [[5, 9, 200, 17], list(range(3, 260)), [7]]
OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8, "seed": 2}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of four layers."""
    return write_tiny_llama(tmp_path_factory.mktemp("spread") / "tiny.gguf", MODEL)


def spread_llama(
    path: Path, share: float = 0.0, kv_type: str = "f16", **options: Any
) -> SpreadLlama:
    """The model over two stages, which die in this share of their calls."""

    def stages(file: GGUFFile) -> list[MortalStage]:
        return [
            MortalStage(
                partial(Stage, file, layers, num_threads=1, exact=True, kv_type=kv_type),
                often(1, share),
            )
            for layers in cut(4, 2)
        ]

    return SpreadLlama(
        path, stages, context_length=600, chunk_tokens=128, kv_type=kv_type, **options
    )


@pytest.fixture(scope="module")
def pair(path: Path) -> Iterator[tuple[Llama, SpreadLlama]]:
    """The model in one process, and over two stages."""
    with (
        Llama(path, num_threads=1, exact=True, context_length=600) as whole,
        spread_llama(path) as spread,
    ):
        yield whole, spread


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_vectors_are_those_of_one_process(pair: tuple[Llama, SpreadLlama], pooling: Any) -> None:
    """Rows of the last stage are pooled and normed as one process's own, bit for bit."""
    vectors = [llama.embed(TEXTS, pooling=pooling) for llama in pair]
    np.testing.assert_array_equal(*vectors)


def test_log_probabilities_of_prompts_are_too(pair: tuple[Llama, SpreadLlama]) -> None:
    """Scores need logits of every token, which are sent."""
    scores = [llama.score([8, 9, 10], [5, 6, 7], alternatives=2) for llama in pair]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("name", "value"), [("num_threads", 2), ("cache_limit", 0), ("idle_seconds", 60)]
)
def test_what_stages_have_themselves_is_refused(
    pair: tuple[Llama, SpreadLlama], name: str, value: int
) -> None:
    """Threads, memory and idle time cannot be set for machines that have their own."""
    with pytest.raises(InvalidOptionError, match=f"'{name}' is not there"):
        setattr(pair[1], name, value)
    with pytest.raises(InvalidOptionError, match="'unload' is not there"):
        pair[1].unload()


def adapter_file(folder: Path, seed: int) -> Path:
    """An adapter of all matrices."""
    return write_gguf_adapter(folder / f"a{seed}.gguf", random_gguf_factors(MODEL, seed=seed))


@pytest.mark.parametrize("share", [0.0, 0.015])
def test_adapters_are_loaded_by_stages(path: Path, tmp_path: Path, share: float) -> None:
    """Texts with adapters, with others and without any are those of one process, in a batch too."""
    files = [adapter_file(tmp_path, seed) for seed in (1, 2)]
    with (
        Llama(path, num_threads=1, exact=True, context_length=600) as whole,
        spread_llama(path, share) as spread,
    ):
        found = []
        for llama in (whole, spread):
            first, second = map(llama.load_adapter, files)
            uses = [{first: 1.0}, {}, {first: 0.5, second: -1.0}]
            texts = [llama.generate(TEXTS[1], adapters=use, **OPTIONS).tokens for use in uses]
            with llama.session() as session:
                for use in (uses[0], {}):
                    session.adapters = use
                    texts.append(session.generate(TEXTS[0], **OPTIONS).tokens)
            texts += [
                r.tokens for r in llama.generate_batch([TEXTS[0]], adapters=uses[2], **OPTIONS)
            ]
            found.append((texts, llama.embed([TEXTS[0]], adapters=uses[0]).tolist()))
            llama.unload_adapter(first)
        assert found[0] == found[1]
        assert len(set(found[0][0])) == len(found[0][0])


def test_another_adapter_on_a_machine_is_refused(path: Path, tmp_path: Path) -> None:
    """A stage that finds another file, or none, under an adapter's path says so in one line."""
    file, other = (adapter_file(tmp_path, seed) for seed in (1, 2))
    with spread_llama(path) as llama:
        adapter = llama.load_adapter(file)
        kept = shutil.copy(file, tmp_path / "kept.gguf")
        other.replace(file)
        with pytest.raises(ModelFileError, match="another adapter than the driver's"):
            llama.generate(TEXTS[0], adapters={adapter: 1.0}, **OPTIONS)
        file.unlink()
        with pytest.raises(ModelNotFoundError):
            llama.generate(TEXTS[0], adapters={adapter: 1.0}, **OPTIONS)
        Path(kept).replace(file)
        assert llama.generate(TEXTS[0], adapters={adapter: 1.0}, **OPTIONS).tokens


def told(llama: Llama, session: Any) -> list[int]:
    """How a session's text goes on, sampled."""
    prompt = [*session.tokens, 9]
    result = session.generate(prompt, **OPTIONS)
    return [result.statistics.prefilled_tokens, *result.tokens]


@pytest.mark.parametrize(
    ("length", "kv_type", "share"),
    [(5, "f16", 0.0), (300, "f16", 0.015), (128, "bf16/q4_0", 0.0), (300, "bf16/q4_0", 0.0)],
)
def test_saved_sessions_are_those_of_one_process(
    path: Path, tmp_path: Path, length: int, kv_type: str, share: float
) -> None:
    """A file of either opens in the other, is the same byte for byte, and nothing is computed."""
    prompt = [token % 288 for token in range(7, 7 + length)]
    files = tmp_path / "whole", tmp_path / "spread"
    with (
        Llama(path, num_threads=1, exact=True, context_length=600, kv_type=kv_type) as whole,
        spread_llama(path, share, kv_type=kv_type) as spread,
    ):
        for llama, file in zip((whole, spread), files, strict=True):
            with llama.session() as session:
                session.generate(prompt, max_tokens=4, temperature=0)
                session.save(file)
        assert files[0].read_bytes() == files[1].read_bytes()
        found = []
        for llama in (whole, spread):
            for file in files:
                with llama.load_session(file, verify=True) as session:
                    found.append(told(llama, session))
        assert found[0] == found[1] == found[2] == found[3]
        assert found[0][0] == 1


def test_a_saved_session_of_another_kind_is_refused(
    path: Path, tmp_path: Path, pair: tuple[Llama, SpreadLlama]
) -> None:
    """Other types or adapters, a longer session and an empty one are refused as by one process."""
    file = tmp_path / "session"
    with pair[0].session() as session:
        session.generate(list(range(3, 260)), max_tokens=2)
        session.save(file)
    with spread_llama(path, kv_type="q8_0") as other, pytest.raises(SessionFileError, match="f16"):
        other.load_session(file)
    with pair[1].session(context_length=100) as session:
        with pytest.raises(ContextLengthError):
            session.load(file)
        assert session.tokens == ()
        with pytest.raises(SessionFileError, match="no tokens to save"):
            session.save(tmp_path / "empty")


def test_stages_give_way_to_other_programs(path: Path) -> None:
    """All of them, and those that are brought back after they were lost."""
    with spread_llama(path) as llama:
        llama.low_priority = True
        assert llama.low_priority
        stages = [stage for stage in llama.stages if isinstance(stage, MortalStage)]
        dies = iter([False, False, True])
        stages[1]._is_dying = lambda: next(dies, False)
        text = llama.generate(TEXTS[0], **OPTIONS)
        assert text.tokens and stages[1].num_deaths
        assert [stage._stage._engine.low_priority for stage in stages] == [True, True]
        llama.low_priority = False
        assert [stage._stage._engine.low_priority for stage in stages] == [False, False]


def test_hooks_are_those_of_one_process(pair: tuple[Llama, SpreadLlama]) -> None:
    """What a function does to logits or to layers is in the text, until it is removed."""

    def ban(logits: np.ndarray, step: StepRows) -> None:
        logits[:, 100:] = -np.inf

    plain, hooked = [], []
    for llama in pair:
        plain.append(llama.generate(TEXTS[0], **OPTIONS).tokens)
        hooks = [llama.add_hook(ban, "logits"), llama.add_hook(lambda rows, step: rows.fill(1))]
        hooked.append(llama.generate(TEXTS[0], **OPTIONS).tokens)
        for hook in hooks:
            llama.remove_hook(hook)
        plain.append(llama.generate(TEXTS[0], **OPTIONS).tokens)
    assert len(set(plain)) == 1
    assert hooked[0] == hooked[1] != plain[0] and max(hooked[0]) < 100
