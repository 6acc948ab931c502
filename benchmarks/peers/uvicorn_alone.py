"""What any Python server behind uvicorn can reach: Percept's own decoding and graph on a thread per core, the bare ASGI
protocol around it, one class as the answer, and nothing else: no validation, no queue, no limits, no metrics.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from percept.imaging.decode import decode_reduced
from percept.imaging.preprocess import prepare
from percept.runtime.network import Network, TrunkInput

NETWORK = Network(Path(os.environ["BENCH_BUNDLE"]), "cpu", 1)
THREADS = ThreadPoolExecutor(int(os.environ["BENCH_WORKERS"]))


def answer(photo: bytes) -> bytes:
    """The best class."""
    rule = NETWORK.manifest.preprocessing
    (outputs,) = NETWORK.run_trunk(
        [TrunkInput(prepare(*decode_reduced(rule, photo, 10**8, 10**8), rule), frozenset({"logits"}))]
    )
    return json.dumps({"index": int(outputs["logits"].argmax())}).encode()


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Respond with the best class of the posted photo."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    found = await asyncio.get_running_loop().run_in_executor(THREADS, answer, body)
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(found)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": found})
