"""``edgellama tokenize``: a text as the model's tokens, for people and as JSON.

Only the vocabulary of the file is read; the model is not loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.options import json_option, text_file_option

if TYPE_CHECKING:
    from edgellama.text.tokenizer import Tokenizer


@click.command("tokenize", short_help="Print the tokens of a text.")
@click.argument("model", type=MODEL)
@click.argument("text", required=False)
@text_file_option("Read the text from FILE")
@json_option("Print the list of ids as JSON.")
@click.option("--no-bos", is_flag=True, help="Leave out the token that begins a text.")
@click.option(
    "--parse-special", is_flag=True, help="Read text such as <|im_end|> as control tokens."
)
def command(
    model: str,
    text: str | None,
    file: str | None,
    as_json: bool,
    no_bos: bool,
    parse_special: bool,
) -> None:
    """Print the tokens of TEXT, one per line: the id, then the token's text.

    MODEL may be a file that holds only a vocabulary. If TEXT is -, standard input is read.

    \b
    Examples:
      edgellama tokenize smollm2 "Hello, world"
      edgellama tokenize smollm2 -f letter.txt --json
    """
    from edgellama.cli.inputs.model_argument import find_model
    from edgellama.cli.inputs.prompt_text import STANDARD_INPUT, read_prompt
    from edgellama.quant.gguf.file import GGUFFile
    from edgellama.text.tokenizer import load_tokenizer

    path = find_model(model)
    from_stdin = text == STANDARD_INPUT
    prompt = read_prompt(None if from_stdin else text, file, from_stdin)
    with GGUFFile(path) as gguf:
        tokenizer = load_tokenizer(gguf.metadata, gguf.path)
        tokens = tokenizer.encode(
            prompt, add_bos=False if no_bos else None, parse_special=parse_special
        )
        if as_json:
            click.echo(json.dumps(list(tokens)))
            return
        for line in token_lines(tokenizer, tokens):
            click.echo(line)


def token_lines(tokenizer: Tokenizer, tokens: Sequence[int]) -> Iterator[str]:
    """One line a token: the id, a tab, the token's text with unsafe characters escaped."""
    for token in tokens:
        yield f"{token}\t{json.dumps(tokenizer.token_text(token), ensure_ascii=False)[1:-1]}"
