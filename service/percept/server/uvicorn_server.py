"""The uvicorn server: one process on one port, with a shutdown that drops no request.

A bound socket and an ASGI application come in; `run` returns when a signal has stopped the server and the last response
is sent. This module knows no route and no bundle.

On SIGTERM or SIGINT the server accepts no new connection. It completes the requests in flight, and those that clients
have just sent over a keep-alive connection or over one that waits to be accepted. From then on every response has the
header `Connection: close`; idle connections are closed a little later. A second signal ends the process at once.
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
from starlette.types import ASGIApp

from percept.errors import PerceptError
from percept.server.http_protocol import HttpProtocol

log = logging.getLogger(__name__)

# Longer than proxies keep an idle connection (60 s in nginx and in Amazon's load balancers), so that the proxy closes
# it first. Otherwise a request may meet a connection that the server is closing, and proxies do not repeat a POST.
KEEP_ALIVE_S = 75
# How long idle connections stay open after the signal. Requests that clients sent before the shutdown reached them
# arrive within this time, even from another continent.
DRAIN_S = 0.5
POLL_S = 0.02
# Added to the deadline, within which every response is due. Requests whose body still arrives then are cancelled.
SHUTDOWN_SLACK_S = 5


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address and does not listen yet.

    Raises `PerceptError` if the address is not available.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PerceptError(
            f"cannot listen on {host} port {port}: {error.strerror}; set PERCEPT_HOST or PERCEPT_PORT"
        ) from error
    return listener


def run(app: ASGIApp, listener: socket.socket, deadline_s: float, **options: Any) -> None:
    """Serve on a bound socket until a signal stops the server, then at most `deadline_s` + 5 s longer.

    `options` are those of `uvicorn.Config`. Raises `PerceptError` if the application fails to start.
    """
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",  # no route is a WebSocket
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(deadline_s + SHUTDOWN_SLACK_S),
        **options,
    )
    server = Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise PerceptError("the application failed to start; see the log above")


class Server(uvicorn.Server):
    """uvicorn's server with a shutdown that drops no request."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and log the address."""
        await super().startup(sockets)
        for listener in (sockets or ()) if self.started else ():
            host, port = listener.getsockname()[:2]
            log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain the connections, then shut down as uvicorn does."""
        log.info("shutting down: requests in flight are completed first")
        self.server_state.default_headers.append((b"connection", b"close"))
        pending = [connection for listener in sockets or () for connection in _accept_pending(listener)]
        for server in self.servers:
            server.close()
        for connection in pending:
            await asyncio.get_running_loop().connect_accepted_socket(self._create_protocol, connection)
        await self._drain()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        for _ in range(round(DRAIN_S / POLL_S)):
            if self.force_exit or not self.server_state.connections:
                break
            await asyncio.sleep(POLL_S)

    def _create_protocol(self) -> asyncio.Protocol:
        protocol_class: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down; at a second signal exit at once, whichever signal it is (uvicorn does so for SIGINT only)."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)


def _accept_pending(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections in the backlog: closing the listener would reset them."""
    with suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection
