"""One process on one port: bound before anything is loaded, and stopped so that no client notices.

A socket and an application come in; `run` comes back when the process was told to stop and its last answer has left.
It knows no route and no bundle.

On SIGTERM or SIGINT nothing new is accepted. What is being answered is answered, and so is what clients have just sent,
be it over a connection that they kept or one that waits to be accepted: every answer now says that its connection is
closed, and what is idle is closed a little later. A second signal ends all this at once.
"""

import asyncio
import logging
import math
import socket
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from percept.api import problems
from percept.errors import NotReady, PerceptError

log = logging.getLogger(__name__)

# Longer than proxies keep a connection that rests (nginx and Amazon's load balancers: 60 s), so that they close it: a
# request must not meet a connection that is being closed here, as a POST is not sent again by itself.
KEEP_ALIVE_S = 75
# By then has come what a client sent before it could know of the stop, from the other end of the world too.
LINGER_S = 0.5
LOOK_S = 0.02
# Nobody waits for an answer for longer than the deadline; who is still sending this much later is not waited for.
SLACK_S = 5


def bind(host: str, port: int) -> socket.socket:
    """A socket for an address, not yet listening; raises `PerceptError` where it cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PerceptError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def run(app: ASGIApp, listener: socket.socket, deadline_s: float, **options: Any) -> None:
    """Serve on a bound socket until a signal has come, and then the last answer has left or the deadline is over.

    `options` are those of `uvicorn.Config`. Raises `PerceptError` where the application does not start.
    """
    grace = math.ceil(deadline_s + SLACK_S)
    config = uvicorn.Config(Stopping(app), timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=grace, **options)
    server = Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise PerceptError("the application did not start: its log says why")


class Server(uvicorn.Server):
    """uvicorn's server with a stop that loses nothing."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for listener in (sockets or ()) if self.started else ():
            host, port = listener.getsockname()[:2]
            log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, let connections go with their next answer, then do what uvicorn does."""
        log.info("stopping: what was asked is answered first")
        self.server_state.default_headers.append((b"connection", b"close"))
        last = [connection for listener in sockets or () for connection in _waiting(listener)]
        for server in self.servers:
            server.close()
        for connection in last:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        for _ in range(round(LINGER_S / LOOK_S)):
            if self.force_exit or not self.server_state.connections:
                break
            await asyncio.sleep(LOOK_S)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return made

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at a second signal at once, whichever it is (uvicorn means SIGINT alone)."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that clients have made and nobody has accepted: closing the listener would reset them."""
    with suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


class Stopping:
    """ASGI middleware: whose request is given up because the process ends is told so; others can answer it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or say that the time for it is over."""
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except asyncio.CancelledError:
            if begun or scope["type"] != "http":
                raise
            answer = await problems.respond(Request(scope), NotReady("the service stops; ask it again, or another"))
            await answer(scope, receive, send)
