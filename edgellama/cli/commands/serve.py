"""``edgellama serve``: models for programs, in the protocols of OpenAI, Ollama and Anthropic.

Here options become ``server.settings``, which are checked before anything is opened.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellama.cli.garbage import end_start
from edgellama.cli.inputs.cluster_stages import connected_model, machines_options
from edgellama.cli.options.byte_size import ByteSize
from edgellama.cli.options.completion import MODEL
from edgellama.cli.options.engine_options import engine_options, take_engine_arguments
from edgellama.cli.options.options import given
from edgellama.cli.options.token_count import TokenCount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellama.server.settings import Limits, Opener, ServerSettings

NEVER = ("never", "-1", "forever")


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
    from edgellama.server.connections.parent import check_parent
    from edgellama.server.run import serve, stdin_is_pipe, with_token

    if parent_pid is not None:
        check_parent(parent_pid)
    settings = _settings(models, options)
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


def _settings(models: tuple[str, ...], options: dict[str, Any]) -> ServerSettings:
    from edgellama.server.settings import ServerSettings

    keep_alive = options.pop("keep_alive")
    file = options.pop("api_key_file")
    keys = [*options.pop("api_keys"), *(_keys(file) if file else ())]
    engine = take_engine_arguments(options)
    limits = _limits(options)
    machines, address = options.pop("machines_text"), options.pop("address")
    paths = _paths(models)
    openers = {}
    if machines is not None:
        if len(models) != 1:
            raise click.UsageError(f"--machines spreads one MODEL; {len(models)} are given")
        opener = _spread(models[0], machines, address, engine, limits)
        openers = dict.fromkeys(paths, opener)
    aliases = dict(_alias(text) for text in options.pop("aliases"))
    if keep_alive is not None:
        options["keep_alive_s"] = _seconds(keep_alive)
    return ServerSettings(
        models=paths,
        openers=openers,
        engine=engine,
        api_keys=tuple(keys),
        aliases=aliases,
        limits=limits,
        on_compile=_tell_of_kernels,
        unloads_given=keep_alive is not None,
        **given(options),
    )


def _tell_of_kernels(done: int, total: int) -> None:
    """Why a first start takes so long."""
    if not done:
        text = f"compiling {total} kernels for this processor, which later starts find"
        print(text, file=sys.stderr, flush=True)


def _limits(options: dict[str, Any]) -> Limits:
    from edgellama.server.settings import Limits

    names = ("parallel", "max_waiting", "max_tokens", "max_seconds", "body_bytes")
    return Limits(**given({name: options.pop(name) for name in names}))


def _paths(models: tuple[str, ...]) -> dict[str, Path]:
    """Files by the names that clients use: as given, or a path's last part."""
    from edgellama.cli.inputs.model_argument import find_runnable

    found = {}
    for name in models:
        path = find_runnable(name, None)
        is_path = Path(name).expanduser().exists()
        found[path.stem if is_path else name] = path
    return found


def _spread(
    model: str, machines: str, address: str | None, engine: Mapping[str, Any], limits: Limits
) -> Opener:
    """How a model is loaded over several machines."""
    from edgellama.server.settings import Opener

    spread = connected_model(model, machines, address, engine, num_texts=limits.parallel)
    return Opener(spread.open, spread.num_bytes)


def _keys(file: Path) -> list[str]:
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise click.ClickException(f"{file} holds no key; allowed: one on each line")
    return keys


def _alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise click.UsageError(f"--alias is {text!r}; allowed: NAME=MODEL")
    return name, model


def _seconds(text: str) -> float:
    from edgellama.server.fields.durations import seconds

    return float("inf") if text.lower() in NEVER else seconds(text)


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
