"""Replicas of ``serve``'s application on Ray Serve, and the front that finds one for a request.

The front knows which requests belong together. Ray's router sends the same session to the same
replica by consistent hashing, or to another one if that is busy or gone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import randrange
from typing import TYPE_CHECKING, Any

from edgellama.server import require_extra

try:
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse

    from edgellama.cluster.served_application import ServedApplication, plain_scope
    from edgellama.server.application import plain_path
    from edgellama.server.connections.wire import json_response, read_body
    from edgellama.server.errors import RequestError, error_shape, too_busy
    from edgellama.server.security import Guard
    from edgellama.server.settings import Limits, ServerSettings
except ImportError:
    # Ray brings some of what the server needs, but not all.
    require_extra()
    raise

from edgellama.cluster.affinity import ResponseKeys, affinity_key
from edgellama.cluster.ray_cluster import import_ray
from edgellama.cluster.stream_replay import (
    DivergedError,
    SentStream,
    failure_event,
    lost_answer,
    with_seed,
)
from edgellama.models.names import resolve
from edgellama.quant.errors import InvalidOptionError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
REPLICA_HEADER = b"x-edgellama-replica"
FRONT, REPLICA = "Front", "Replica"
"""Names of the deployments, under which a configuration file has options for them."""
FRONT_REQUESTS = 1000
"""Answers that one front passes on at once."""
NUMBERS = ("parallel", "max_waiting")
MOST_SEEDS = 2**31
MOST_TRIES = 3
"""Replicas that are asked for an answer, where one after the other dies before it has begun."""
WAITING_SHARE = 2
"""Requests that a replica takes, as a multiple of the texts that it makes at once."""
_RESPONSE_ID = re.compile(rb'"id":"(resp_[0-9a-f]{32})"')


@dataclass(frozen=True)
class ReplicaOptions:
    """What a configuration file says of every replica.

    ``models`` are paths or names, as each machine knows them, the first of them the default.
    ``parallel`` texts are made at once, ``max_waiting`` requests wait for all replicas together.
    ``engine``: options of ``Llama``. ``api_keys``, ``hosts`` and ``cors`` as in ServerSettings.
    """

    models: tuple[str, ...] | str
    parallel: int = 4
    max_waiting: int = 256
    engine: Mapping[str, Any] = field(default_factory=dict)
    api_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> ReplicaOptions:
        """InvalidOptionError for what is no option."""
        names = [option.name for option in fields(cls)]
        if wrong := [name for name in arguments if name not in names]:
            raise InvalidOptionError(
                f"{wrong[0]!r} is no option of a replica; allowed: {', '.join(names)}"
            )
        if not arguments.get("models"):
            raise InvalidOptionError("models is missing; allowed: names or paths of models")
        # On a command line numbers are texts.
        numbers = {name: _whole(name, arguments[name]) for name in NUMBERS if name in arguments}
        options = cls(**{**arguments, **numbers})
        _ = options.limits
        return options

    @property
    def limits(self) -> Limits:
        """InvalidOptionError for numbers that are out of range."""
        return Limits(parallel=self.parallel, max_waiting=self.max_waiting)

    def settings(self) -> ServerSettings:
        """The settings of a replica, on the machine where it runs."""
        names = [self.models] if isinstance(self.models, str) else self.models
        paths = {
            (Path(name).stem if Path(name).exists() else name): resolve(name) for name in names
        }
        return ServerSettings(
            models=paths,
            only_given=True,
            engine=self.engine,
            limits=self.limits,
            # Keys and origins are the front's business, through which alone requests come.
            hosts=tuple(self.hosts),
            # Conversations of a page would lie on the machine of one replica.
            with_page=False,
        )


def _whole(name: str, value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise InvalidOptionError(f"{name} is {value!r:.80}; allowed: a whole number") from None


class Replica:
    """Models on one machine; Ray Serve starts as many as its configuration says."""

    # Ray Serve awaits it, and routes nothing here before its end.
    async def __init__(self, options: ReplicaOptions) -> None:  # type: ignore[misc]
        from ray import serve

        self._application = ServedApplication(options.settings())
        self._name = serve.get_replica_context().replica_id.unique_id.encode()
        await self._application.start()

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[dict[str, Any]]:
        """The messages of an answer, and which replica has given it."""
        async for message in self._application.answer(scope, body):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (REPLICA_HEADER, self._name)]
            yield message

    async def __del__(self) -> None:
        await self._application.stop()


class _Guarded(Response):
    """An application in the place of an answer, which is one for Ray Serve."""

    def __init__(self, application: Guard) -> None:
        super().__init__()
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = {**scope, "path": plain_path(scope["path"])}
        await self._application(plain, receive, send)


@dataclass(frozen=True)
class _Asked:
    """A request as replicas get it; ``key``: what it has in common with others of its session."""

    scope: dict[str, Any]
    body: bytes
    key: str | None


class Front:
    """Takes requests, and passes each on to the replica of its session."""

    def __init__(self, replica: Any, options: ReplicaOptions) -> None:
        self._replica = replica
        self._limits = options.limits
        self._responses = ResponseKeys()
        # The right to call is checked before a body is read, and so here.
        self._guard = Guard(
            self._answer,
            host="localhost",
            hosts=options.hosts,
            cors=options.cors,
            api_keys=options.api_keys,
        )

    async def __call__(self, request: Request) -> Response:
        """What Ray Serve lets answer a request."""
        return _Guarded(self._guard)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer of a replica, piece by piece as it comes."""
        request = Request(scope, receive)
        path = scope["path"]
        try:
            body = await read_body(request, self._limits)
            key = affinity_key(request.headers, body, self._responses)
            # With a seed of its own a lost stream can be made anew.
            asked = _Asked(plain_scope(scope), with_seed(path, body, randrange(MOST_SEEDS)), key)
            answer, start = await self._begun(asked)
        except RequestError as error:
            shape = error_shape(path, request.headers)(error)
            response: Response = json_response(shape, error.status, error.headers)
        else:
            response = StreamingResponse(self._passed_on(asked, answer, start), start["status"])
            response.raw_headers = list(start["headers"])
        await response(scope, receive, send)

    async def _begun(self, asked: _Asked) -> tuple[Any, dict[str, Any]]:
        """An answer that has begun, and its first message; RequestError if no replica is left.

        Of what a replica has made before it died a client has seen nothing, so another one tries.
        """
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError

        session = {} if asked.key is None else {"session_id": asked.key}
        handle = self._replica.options(stream=True, **session)
        for number in range(MOST_TRIES):
            answer = handle.answer.remote(asked.scope, asked.body)
            try:
                return answer, await anext(answer)
            except BackPressureError:
                raise too_busy("all replicas are busy", "queue_full", 503) from None
            except RayError as error:
                logger.warning("try %d: a replica has not answered: %s", number + 1, error)
            except BaseException:
                answer.cancel()
                raise
        raise too_busy("no replica has answered", "replica_lost", 503)

    async def _passed_on(
        self, asked: _Asked, answer: Any, start: dict[str, Any]
    ) -> AsyncIterator[bytes]:
        """The bodies of an answer; where its replica dies, another one makes it anew.

        What cannot be continued ends with an error in the words of its protocol.
        """
        from ray.exceptions import RayError

        media_type = dict(start["headers"]).get(b"content-type", b"")
        sent, replay = SentStream(media_type), None
        current, num_lost = answer, 0
        try:
            while current is not None:
                try:
                    async for message in current:
                        body = message["body"]
                        if asked.key is not None and (found := _RESPONSE_ID.search(body[:1000])):
                            self._responses.note(found[1].decode(), asked.key)
                        new = body if replay is None else replay.new(body)
                        sent.note(new)
                        yield new
                    current = None
                    if replay is not None:
                        yield replay.end()
                except RayError as error:
                    num_lost += 1
                    logger.warning("a replica was lost in the middle of an answer: %s", error)
                    if num_lost == MOST_TRIES:
                        raise DivergedError("others were lost, too") from None
                    replay = sent.again()
                    current, again = await self._begun(asked)
                    if again["status"] != start["status"]:
                        raise DivergedError("another one refuses it") from None
        except (DivergedError, RequestError) as error:
            logger.warning("an answer could not be made anew: %s", error)
            yield failure_event(asked.scope["path"], media_type, lost_answer(str(error)))
        finally:
            if current is not None:
                current.cancel()


def application(arguments: Mapping[str, Any]) -> Any:
    """What ``serve run edgellama.cluster.ray_serve:application models=smollm2`` runs.

    ``arguments`` are ReplicaOptions; InvalidOptionError for others.
    """
    return replicated(ReplicaOptions.of(arguments))


def replicated(options: ReplicaOptions, **deployment: Any) -> Any:
    """An application for ``serve.run``; ``deployment``: options of Ray Serve for its replicas."""
    serve = import_ray("serve")
    from ray.serve.config import RequestRouterConfig

    usual: dict[str, Any] = {
        "name": REPLICA,
        "max_ongoing_requests": WAITING_SHARE * options.parallel,
        "max_queued_requests": options.max_waiting,
        "request_router_config": RequestRouterConfig(request_router_class=ROUTER),
    }
    replica = serve.deployment(Replica, **usual | deployment)
    front = serve.deployment(Front, name=FRONT, max_ongoing_requests=FRONT_REQUESTS)
    return front.bind(replica.bind(options), options)
