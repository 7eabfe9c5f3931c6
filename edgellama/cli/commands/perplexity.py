"""``edgellama perplexity``: how well a model predicts a text, alone or against another model.

``measure.perplexity`` computes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.inputs.prompt_text import read_prompt
from edgellama.cli.options.adapter_option import AdapterPath, adapter_option, load_adapters
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.engine_options import attention_options, take_attention
from edgellama.cli.options.options import (
    chunks_option,
    count_option,
    json_option,
    kv_type_option,
    text_file_option,
    threads_option,
)
from edgellama.cli.options.token_count import TokenCount

if TYPE_CHECKING:
    from edgellama.engine.engine import Engine
    from edgellama.engine.weights.adapter_set import AdapterSet
    from edgellama.measure.perplexity import Chunks
    from edgellama.text.tokenizer import Tokenizer

DEFAULT_CHUNK_TOKENS = 512
BASE_KV_TYPE = "f16"


@click.command("perplexity", short_help="Measure how well a model predicts a text.")
@click.argument("model", type=MODEL)
@text_file_option("The text, a UTF-8 file", required=True)
@count_option(
    *("-c", "--context", "chunk_tokens"),
    default=DEFAULT_CHUNK_TOKENS,
    text="Tokens in a chunk; the second half of each chunk is scored.",
    kind=TokenCount,
)
@chunks_option
@click.option(
    "--kl-base",
    "base",
    type=MODEL,
    metavar="MODEL",
    help="Compare with this model's probabilities, with keys and values of 16 bits: mean KL "
    "divergence, same top token.",
)
@threads_option
@kv_type_option
@attention_options
@adapter_option()
@json_option()
def command(
    model: str,
    file: str,
    chunk_tokens: int,
    max_chunks: int | None,
    base: str | None,
    num_threads: int | None,
    kv_type: str,
    adapters: Sequence[AdapterPath],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how well MODEL predicts a text: lower is better, 1 is certainty.

    The text is cut and scored as in llama.cpp's tool, so the figures can be compared.

    \b
    Examples:
      edgellama perplexity smollm2 -f wiki.test.raw
      edgellama perplexity q4_k_m.gguf -f text.txt --kl-base f16.gguf --json
      edgellama perplexity a.gguf -f text.txt --lora lora.gguf --kl-base a.gguf
      edgellama perplexity smollm2 -f text.txt --kv q8_0/q4_0 --kl-base smollm2
    """
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.measure.text_chunks import cut_text

    attention = take_attention(options)
    text = read_prompt(None, file, False)
    paths = [find_model(name) for name in (model, base) if name is not None]
    with ExitStack() as stack:
        how = {"num_threads": num_threads, "kv_type": kv_type, "attention": attention}
        opened = [_open(stack, path, how) for path in paths[:1]]
        # Keys and values of the base are of a type that loses nothing worth measuring.
        opened += [_open(stack, path, how | {"kv_type": BASE_KV_TYPE}) for path in paths[1:]]
        chunks = cut_text(opened[0][1], text, chunk_tokens)[:max_chunks]
        engines = [engine for engine, _ in opened]
        shelf = engines[0].adapters
        figures = _measure(engines, chunks, shelf.adapter_set(load_adapters(shelf.load, adapters)))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "model": str(paths[0]),
                    "chunk_tokens": chunk_tokens,
                    "kv_type": kv_type,
                    **figures,
                }
            )
        )
        return
    for line in _report(figures):
        click.echo(line)


def _open(stack: ExitStack, path: Path, how: dict[str, Any]) -> tuple[Engine, Tokenizer]:
    from edgellama.cli.output.terminal import kernel_progress
    from edgellama.engine.engine import Engine
    from edgellama.quant.gguf.file import GGUFFile, require_model
    from edgellama.text.tokenizer import load_tokenizer

    file = stack.enter_context(GGUFFile(path))
    require_model(file)
    tokenizer = load_tokenizer(file.metadata, file.path)
    with kernel_progress() as report:
        engine = stack.enter_context(Engine(file, **how, progress=report))
    return engine, tokenizer


def _measure(engines: Sequence[Engine], chunks: Chunks, adapters: AdapterSet) -> dict[str, Any]:
    """Figures of the first model, with ``adapters``, beside the second if there is one."""
    from edgellama.cli.background import run_cancellable
    from edgellama.cli.output.terminal import step_progress
    from edgellama.measure.perplexity import compare_models, measure_perplexity

    engine, *others = engines
    with step_progress("measuring perplexity") as report:
        if not others:
            result = run_cancellable(
                lambda token: measure_perplexity(
                    engine, chunks, adapters=adapters, cancelled=token, progress=report
                )
            )
            return _figures(result)
        own, other, divergence = run_cancellable(
            lambda token: compare_models(
                engine, others[0], chunks, adapters=adapters, cancelled=token, progress=report
            )
        )
    return _figures(own) | {"base": _figures(other), **asdict(divergence)}


def _figures(result: Any) -> dict[str, Any]:
    figures = asdict(result)
    return {"perplexity": figures.pop("value"), **figures}


def _report(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"perplexity     {figures['perplexity']:.4f} +/- {figures['uncertainty']:.4f}",
        f"tokens scored  {figures['num_tokens']} in {figures['num_chunks']} "
        f"chunk{'s' if figures['num_chunks'] > 1 else ''}",
    ]
    if "base" in figures:
        base = figures["base"]["perplexity"]
        lines += [
            f"of the base    {base:.4f} ({figures['perplexity'] / base - 1:+.3%})",
            f"mean KL        {figures['kl']:.6f}",
            f"same top token {figures['top_agreement']:.2%}",
        ]
    return lines
