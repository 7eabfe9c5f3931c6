"""``edgellama serve``: models for other programs, in the protocols of OpenAI, Ollama and Anthropic.

``serve_settings`` turns options into settings, ``server.run`` serves.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from edgellama.cli.garbage import end_start
from edgellama.cli.options.byte_size import ByteSize
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.engine_options import engine_options
from edgellama.cli.options.machines_options import machines_options
from edgellama.cli.options.token_count import TokenCount


@click.command("serve", short_help="Serve models to programs: OpenAI, Ollama, Anthropic.")
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@click.option(
    "--host", metavar="ADDRESS", help="Listen on this address.  [default: both loopback addresses]"
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Listen on this port; 0 takes a free one and prints it as JSON, with a key.  "
    "[default: 11434]",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    metavar="N",
    help="Generate this many texts together.  [default: 4]",
)
@click.option(
    "--queue",
    "max_waiting",
    type=click.IntRange(min=0),
    metavar="N",
    help="Let this many requests wait for their turn.  [default: 256]",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    metavar="KEY",
    envvar="EDGELLAMA_API_KEY",
    help="Clients must send this key; repeatable.",
)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keys, one on a line.",
)
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="Allow web pages of this origin, such as http://localhost:3000; * for all; repeatable.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Allow clients to call the server by this host name; repeatable.",
)
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="NAME=MODEL",
    help="Another name for a model, such as gpt-4o=smollm2; repeatable.",
)
@click.option(
    "--only", "only_given", is_flag=True, help="Serve only MODEL, not the models in the cache."
)
@click.option(
    "--keep-alive",
    metavar="TIME",
    help="Unload a model without work after this time: 30s, 5m, 2h, never.  "
    "[default: 5m; never for MODEL]",
)
@click.option(
    "--max-tokens",
    type=TokenCount(min=1),
    metavar="N",
    help="Limit every text to this many tokens.  [default: the context's]",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0.1),
    metavar="N",
    help="Limit every answer to this many seconds.  [default: no limit]",
)
@click.option(
    "--body-limit",
    "body_bytes",
    type=ByteSize(),
    metavar="SIZE",
    help="Refuse requests larger than this, such as 1MB.  [default: 20MB]",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give running answers this long to finish when the server ends.  [default: 30]",
)
@click.option(
    "--parent-pid", type=int, metavar="PID", help="End when the process with this id ends."
)
@click.option(
    "--stdin/--no-stdin",
    "with_stdin",
    default=None,
    help="End when standard input ends.  [default: with --port 0, if it is a pipe]",
)
@click.option(
    "--no-page",
    "with_page",
    flag_value=False,
    default=None,
    help="Serve no page for browsers at /, and keep no conversations.",
)
@click.option(
    "--allow-manage",
    is_flag=True,
    default=None,
    help="Allow clients to create, copy and delete models (as in Ollama).",
)
@click.option("--log-prompts", is_flag=True, help="Write requests to the log, including prompts.")
@click.option("-v", "--verbose", is_flag=True, help="Write a line for every request.")
@machines_options
@engine_options
def command(
    models: tuple[str, ...],
    parent_pid: int | None,
    with_stdin: bool | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Serve models to other programs, in three protocols on one port.

    The protocols are OpenAI's under /v1, Ollama's under /api, and Anthropic's under
    /v1/messages. MODELs are loaded at once; the first one answers requests that name no
    model. Other models of the cache are loaded when a request names them. Without --host,
    only programs on this machine can connect.

    \b
    Examples:
      edgellama serve smollm2
      edgellama serve model.gguf --port 8080 --api-key SECRET
      edgellama serve smollm2 --port 0 --parent-pid 1234
      edgellama serve --host 0.0.0.0 --api-key-file keys.txt --parallel 8
      edgellama serve /models/70b.gguf --machines laptop:24GB:60,desk:32GB:80
    """
    _require_server()
    from edgellama.cli.commands.serve_settings import take_settings
    from edgellama.server.connections.parent import check_parent
    from edgellama.server.run import serve, stdin_is_pipe, with_token

    if parent_pid is not None:
        check_parent(parent_pid)
    settings = take_settings(models, options)
    is_sidecar = settings.port == 0
    if is_sidecar:
        settings = with_token(settings)
    _show_log(verbose or settings.log_prompts)
    if settings.models:
        print(f"loading {', '.join(settings.models)}", file=sys.stderr, flush=True)

    def tell(host: str, port: int) -> None:
        end_start()
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{port}"
        if is_sidecar:
            facts = {"host": host, "port": port, "url": url, "token": settings.api_keys[0]}
            print(json.dumps(facts), flush=True)
        else:
            print(f"serving {url} (OpenAI: {url}/v1); Ctrl-C ends it", file=sys.stderr, flush=True)

    serve(
        settings,
        on_ready=tell,
        parent_pid=parent_pid,
        until_stdin_ends=is_sidecar and stdin_is_pipe() if with_stdin is None else with_stdin,
    )


def _show_log(is_wanted: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("edgellama.server")
    log.addHandler(handler)
    log.setLevel(logging.INFO if is_wanted else logging.WARNING)
    log.propagate = False  # What commands warn of has no time.
    others = logging.getLogger("uvicorn")
    others.addHandler(handler)
    others.setLevel(logging.WARNING if is_wanted else logging.ERROR)


def _require_server() -> None:
    """One line with the command that helps, where the extra is not installed."""
    from edgellama.server import require_extra

    require_extra()
