"""What is compiled the first time is enough for every usual model, cache and command."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CliRunner
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.usual_kernels import kernels_for, usual_kernels
from edgellama.kernels_cpu.machine.user_cache import CACHE_VARIABLE

MODEL = TinyLlama(width=256, heads=4, kv_heads=1, feed_forward=256, context_length=128)
FIRST = "edgellama: compiling this model's kernels for this CPU, only this once"
LATER = "edgellama: compiling kernels that nothing has needed before"
TIMEOUT_S = 900.0


def test_usual_kernels_are_some_of_all() -> None:
    """The usual ones are among those of all formats, and a mixed cache has kernels of its own."""
    usual, every = set(usual_kernels()), set(kernels_for())
    assert usual < every
    assert {"gemv_Q4_K", "attention_direct_q8_0_q8_0_4", "choose_token"} <= usual
    assert not {"gemv_Q2_K", "attention_direct_f16_f16_7", "attention_direct_q8_0_f16_4"} & usual
    mixed = set(kernels_for(["Q2_K"], ["q8_0/q4_0"]))
    assert {"gemv_Q2_K", "attention_direct_q8_0_q4_0_7", "rope_store_q8_0_q4_0"} <= mixed
    assert not {"gemv_Q4_K", "attention_q8_0_q8_0_7", "attention_q4_0_q8_0_7"} & mixed


@pytest.mark.slow
def test_only_this_once(run_cli: CliRunner, smollm2_path: Path, tmp_path: Path) -> None:
    """The first command waits for its model's kernels; after a warm-up nothing usual is missing."""
    cache = tmp_path / "cache"
    environment = {CACHE_VARIABLE: str(cache)}

    def run(*arguments: str | Path, text_input: str | None = None) -> str:
        result = run_cli(
            *arguments, text_input=text_input, environment=environment, timeout_s=TIMEOUT_S
        )
        assert result.returncode == 0, result.stderr
        return result.stderr

    few = ("-n", "2", "-p", "a b c d e f g h i j k l m n o p")
    assert run("generate", smollm2_path, *few).startswith(FIRST)
    assert len(list(cache.rglob("*.o"))) < len(usual_kernels()) // 2
    assert "compiling" not in run("generate", smollm2_path, *few)
    run("warmup")
    compiled = set(cache.rglob("*.o"))
    for name in ("Q4_K", "Q8_0", "F16"):
        path = write_tiny_llama(tmp_path / f"{name}.gguf", TinyLlama(**{
            **vars(MODEL), "weight_format": name, "formats": {"output": "Q6_K"},
        }))  # fmt: skip
        assert "compiling" not in run("generate", path, *few)
        assert "compiling" not in run("chat", path, "--kv", "q8_0", "-n", "2", text_input="hi\n")
    bench = ("bench", smollm2_path, "-p", "32", "-n", "2", "-r", "1", "-ctk", "f16,q8_0")
    assert "compiling" not in run(*bench)
    assert set(cache.rglob("*.o")) == compiled
    unusual = ("generate", smollm2_path, *few, "--kv", "q4_0")
    assert run(*unusual).startswith(LATER)
