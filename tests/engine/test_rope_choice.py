"""A user's own choice how positions are scaled: what it makes of a model, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CliRunner
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import InvalidOptionError, Llama, SessionFileError
from edgellama.quant.model_config import ModelConfig
from edgellama.quant.rope_choice import with_rope_scaling
from edgellama.quant.rope_config import RopeConfig

PLAIN = TinyLlama(context_length=64)
TOKENS = [number * 7 % 250 + 3 for number in range(100)]


def config_of(rope: RopeConfig, context_length: int = 4096) -> ModelConfig:
    """Some Llama with these positions."""
    return ModelConfig(1000, context_length, 128, 2, 320, 4, 4, 32, 1e-5, rope)


def logits_of(path: Path, choice: str | None) -> Any:
    """Logits of TOKENS, all of a prompt."""
    with Llama(path, kv_type="f32", exact=True, rope_scaling=choice) as llama:
        engine = llama._engine
        return engine.forward(TOKENS, engine.new_cache(len(TOKENS)), logits="all")


AS_FILES: dict[str, TinyLlama] = {
    "linear:2": replace(PLAIN, rope_scaling="linear", rope_factor=2.0),
    "yarn:2": replace(
        PLAIN, rope_scaling="yarn", rope_factor=2.0, rope_original_context=64, context_length=128
    ),
    "dynamic:2": replace(PLAIN, rope_dynamic_factor=2.0),
}


@pytest.mark.parametrize("choice", AS_FILES)
def test_same_as_in_a_file(choice: str, tmp_path: Path) -> None:
    """A chosen scaling gives the bits of a file that says the same, and others than without."""
    plain = write_tiny_llama(tmp_path / "plain.gguf", PLAIN)
    scaled = write_tiny_llama(tmp_path / "scaled.gguf", AS_FILES[choice])
    chosen = logits_of(plain, choice)
    np.testing.assert_array_equal(chosen, logits_of(scaled, None))
    assert np.abs(chosen - logits_of(plain, None)).max() > 1e-3
    np.testing.assert_array_equal(logits_of(scaled, "none"), logits_of(plain, None))


LENGTHS: dict[str, tuple[RopeConfig, str, int, int]] = {
    "plain": (RopeConfig(32, 1e4), "yarn:2.5", 10240, 4096),
    "linear before": (RopeConfig(32, 1e4, "linear", 4.0), "dynamic:2", 2048, 1024),
    "yarn before": (
        RopeConfig(32, 1e4, "yarn", 4.0, original_context_length=1024), "linear:8", 8192, 1024
    ),
    "none": (RopeConfig(32, 1e4, "linear", 4.0), "none", 1024, 1024),
}  # fmt: skip


@pytest.mark.parametrize(
    ("rope", "choice", "length", "original"), LENGTHS.values(), ids=LENGTHS.keys()
)
def test_lengths(rope: RopeConfig, choice: str, length: int, original: int) -> None:
    """The context is the factor times what was trained, whatever scaling the file had before."""
    config = with_rope_scaling(config_of(rope), choice, has_divisors=False)
    assert (config.context_length, config.rope.original_context_length) == (length, original)
    assert config.rope.attention_factor == 1.0


@pytest.mark.parametrize(
    "choice", ["yarn", "yarn:", "yarn:x", "yarn:0.5", "yarn:inf", "none:2", "longrope:4", "", 4]
)
def test_what_is_no_choice(choice: Any, tmp_path: Path) -> None:
    """Anything else is refused before the model runs, with what is allowed."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", PLAIN)
    with pytest.raises(InvalidOptionError, match='allowed: "none", or one of linear, dynamic'):
        Llama(path, rope_scaling=choice)


def test_llama_3_keeps_its_own(tmp_path: Path) -> None:
    """A file that scales by divisors of frequencies takes no other scaling."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", replace(PLAIN, rope_freqs=True))
    with pytest.raises(InvalidOptionError, match=r"rope_freqs\.weight"):
        Llama(path, rope_scaling="yarn:2")


def test_saved_sessions(tmp_path: Path) -> None:
    """Keys that were turned otherwise are not taken for a model's own."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", PLAIN)
    saved = tmp_path / "saved.session"
    with Llama(path, rope_scaling="yarn:2") as llama, llama.session() as session:
        session.generate(TOKENS[:20], max_tokens=1)
        session.save(saved)
        with llama.load_session(saved) as loaded:
            assert loaded.tokens == session.tokens
    with Llama(path) as llama, pytest.raises(SessionFileError, match="rope_scaling"):
        llama.load_session(saved)


def test_command_line(run_cli: CliRunner, tmp_path: Path) -> None:
    """The option reads further than the file says; a wrong one is one line."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", PLAIN)
    prompt = "a longer text " * 7
    words = ("generate", path, "-p", prompt, "-n", "1", "--json")
    assert "context" in run_cli(*words).stderr
    result = run_cli(*words, "--rope-scaling", "yarn:4")
    assert json.loads(result.stdout)["prompt_tokens"] > 64
    wrong = run_cli(*words, "--rope-scaling", "yarn")
    assert (wrong.returncode, "rope_scaling is 'yarn'" in wrong.stderr) == (1, True)
