"""``edgellama generate``: one text from one prompt, for the shell and for scripts.

``prompt_text`` knows where the prompt comes from, and ``streaming`` how a text appears.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.inputs.prompt_text import STANDARD_INPUT, read_prompt
from edgellama.cli.options.adapter_option import AdapterPath, adapter_option, load_adapters
from edgellama.cli.options.answer_options import answer_arguments, answer_options
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.engine_options import engine_options, take_engine_arguments, type_option
from edgellama.cli.options.machines_options import machines_options
from edgellama.cli.options.options import (
    given_options,
    json_option,
    limit_options,
    max_tokens_option,
    shown_thinking_options,
    text_file_option,
)
from edgellama.cli.options.sampling_options import sampling_options
from edgellama.cli.options.template_option import template_option
from edgellama.cli.output.shown_text import ShownText
from edgellama.cli.output.streaming import run_stream, speed_line
from edgellama.cli.output.terminal import dim

if TYPE_CHECKING:
    from edgellama.generation.results import Generation
    from edgellama.llama import Llama


CHAT_HELP = "Ask in the model's chat format, or continue the text as it is.  [default: raw]"
SUFFIX_HELP = "Fill the gap between the prompt and TEXT, with models trained for it."
SUFFIX_FIRST_HELP = "Show the model TEXT of --suffix before the prompt."
LOGPROBS_HELP = (
    "With --json, add the log-probability of every token, and of the N likeliest tokens at "
    "its place."
)
SPECIAL_HELP = "Read text such as <|im_end|> in the prompt as control tokens."


@click.command("generate", short_help="Generate text from a prompt, or answer one.")
@click.argument("model_and_dash", nargs=-1, type=MODEL, metavar="[MODEL] [-]")
@click.option("-p", "--prompt", metavar="TEXT", help="The prompt.")
@text_file_option("Read the prompt from FILE")
@max_tokens_option
@type_option
@sampling_options(chat=False)
@limit_options
@answer_options
@click.option("--chat/--raw", default=False, help=CHAT_HELP)
@click.option("--system", metavar="TEXT", help="System prompt, with --chat.")
@template_option
@shown_thinking_options
@click.option("--suffix", metavar="TEXT", help=SUFFIX_HELP)
@click.option("--suffix-first", is_flag=True, help=SUFFIX_FIRST_HELP)
@click.option("--parse-special", is_flag=True, help=SPECIAL_HELP)
@adapter_option()
@engine_options
@click.option("--logprobs", type=click.IntRange(min=0), metavar="N", help=LOGPROBS_HELP)
@json_option("Print one JSON object with the text and figures.")
@machines_options
def command(
    model_and_dash: tuple[str, ...],
    prompt: str | None,
    file: str | None,
    chat: bool,
    system: str | None,
    template: str | None,
    reasoning: bool | None,
    max_reasoning_tokens: int | None,
    hide_thinking: bool,
    suffix: str | None,
    suffix_first: bool,
    parse_special: bool,
    type_name: str | None,
    adapters: Sequence[AdapterPath],
    as_json: bool,
    machines_text: str | None,
    address: str | None,
    **options: Any,
) -> None:
    """Generate text from a prompt: -p TEXT, -f FILE, or what comes through a pipe.

    Only the generated text goes to standard output. A line break follows it, unless
    standard error alone is a terminal. Without MODEL, the starter model answers; it is
    downloaded first if need be. --template includes --chat. The thinking of a model is shown
    dimmed on a terminal, and never goes into a pipe or a file.

    \b
    Examples:
      edgellama generate smollm2 --chat -p "Why is the sky blue?"
      edgellama generate model.gguf -f story.txt -n 200 --temperature 0
      edgellama generate code-llama.gguf -f before.py --suffix "$(cat after.py)"
      edgellama generate model.gguf --lora french.gguf:0.8 -p "Once upon a time"
      edgellama generate smollm2 --chat --schema person.json -p "Anna is 34."
      echo "Once upon a time" | edgellama generate smollm2 --json
      edgellama generate 70b.gguf --machines machines.txt --chat -p "Hello"
    """
    chat = chat or template is not None
    model, from_stdin = _take_apart(model_and_dash)
    _check_model(model, prompt or file)
    text = read_prompt(prompt, file, from_stdin)
    thinking = given_options({"reasoning": reasoning, "max_reasoning_tokens": max_reasoning_tokens})
    _check_prompt(chat, system, bool(thinking), suffix, parse_special)
    from edgellama.cli.inputs.model_argument import find_runnable, name_everywhere, open_model

    if options["logprobs"] is not None and not as_json:
        raise click.UsageError("--logprobs needs --json")
    engine = take_engine_arguments(options)
    sampling = given_options(answer_arguments(options))
    path = find_runnable(model, type_name)
    if machines_text is None:
        opened: Llama = open_model(path, **engine)
    else:
        from edgellama.cli.inputs.cluster_stages import open_spread

        opened = open_spread(machines_text, address, engine, name_everywhere(model, path))
    with opened as llama:
        sampling["adapters"] = load_adapters(llama.load_adapter, adapters)
        if chat:
            talk = llama.chat(system, template=template)
            stream = talk.stream(text, **thinking, **sampling)
        else:
            gap = given_options({"suffix": suffix, "suffix_first": suffix_first})
            stream = llama.stream(text, parse_special=parse_special, **gap, **sampling)
        shown = ShownText(is_silent=as_json, hides_thinking=hide_thinking)
        first_token_s = run_stream(stream, shown.write, think=shown.think)
        shown.end_thinking()
        _report(stream.result, first_token_s, as_json)


def _take_apart(words: tuple[str, ...]) -> tuple[str | None, bool]:
    """The model, if one is named, and whether a last ``-`` asks for standard input."""
    from_stdin = words[-1:] == (STANDARD_INPUT,)
    models = words[:-1] if from_stdin else words
    if len(models) > 1:
        raise click.UsageError(f"one MODEL at most; a prompt goes after -p: {models[1]!r}")
    return (models[0] if models else None), from_stdin


def _check_model(model: str | None, prompt: str | None) -> None:
    """UsageError for a prompt that stands where the model does."""
    if model is not None and prompt is None and " " in model and not Path(model).exists():
        raise click.UsageError(f"{model!r} stands in the place of MODEL; a prompt goes after -p")


def _check_prompt(
    chat: bool, system: str | None, thinks: bool, suffix: str | None, parse_special: bool
) -> None:
    """UsageError for options of the prompt that do not go together."""
    if chat and parse_special:
        raise click.UsageError("--parse-special is for --raw; a chat message stays text")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat")
    if thinks and not chat:
        raise click.UsageError("--think, --no-think and --max-thinking need --chat")
    if suffix is not None and (chat or parse_special):
        other = "--chat" if chat else "--parse-special"
        raise click.UsageError(f"--suffix fills a gap in plain text; leave {other} away")


def _report(result: Generation, first_token_s: float, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(_figures(result, first_token_s)))
        return
    # Where text and figures go to one terminal, the figures begin on a line of their own.
    is_one_text = sys.stdout.isatty() or not sys.stderr.isatty()
    if is_one_text and result.text and not result.text.endswith("\n"):
        print(flush=True)
    print(dim(speed_line(result), sys.stderr), file=sys.stderr)


def _figures(result: Generation, first_token_s: float) -> dict[str, Any]:
    from edgellama.generation.batches.batch_lines import logprob_object
    from edgellama.kernels_cpu.machine.memory_use import peak_memory_bytes

    statistics = result.statistics
    logprobs = {"logprobs": [logprob_object(each) for each in result.logprobs or ()]}
    return (logprobs if result.logprobs is not None else {}) | {
        "text": result.text,
        **({"reasoning": result.reasoning} if result.reasoning else {}),
        "tokens": list(result.tokens),
        "prompt_tokens": result.prompt_tokens,
        "cached_tokens": result.usage.cached_tokens,
        **({"reasoning_tokens": result.reasoning_tokens} if result.reasoning_tokens else {}),
        "finish_reason": result.finish_reason,
        "matched_stop": result.matched_stop,
        **({} if result.parsed is None else {"parsed": result.parsed}),
        "prefill_tokens_per_second": statistics.prefill_tokens_per_second,
        "decode_tokens_per_second": statistics.decode_tokens_per_second,
        "drafted_tokens": statistics.drafted_tokens,
        "accepted_tokens": statistics.accepted_tokens,
        "time_to_first_token_s": first_token_s,
        "peak_memory_bytes": peak_memory_bytes(),
    }
