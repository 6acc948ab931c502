"""A closed-loop load generator for machines without wrk: the output has the fields of `closed_loop.lua`.

Every client posts the files in turn over one connection, the next file after each response.

`python -m benchmarks.harness.closed_loop URL CONNECTIONS SECONDS CONTENT_TYPE FILE...`
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness.report import percentile


async def read_response(reader: asyncio.StreamReader) -> int:
    """Read one response; return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lengths = [line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length:")]
    if lengths:
        await reader.readexactly(int(lengths[0]))
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split()[1])


async def client(host: str, port: int, requests: Iterator[bytes], end: float) -> list[tuple[int, float]]:
    """Send requests over one connection until `end`; return the status and the seconds of each response."""
    reader, writer = await asyncio.open_connection(host, port)
    found = []
    while (start := monotonic()) < end:
        writer.write(next(requests))
        found.append((await read_response(reader), monotonic() - start))
    writer.close()
    await writer.wait_closed()
    return found


async def run_closed_loop(
    url: str, connections: int, seconds: float, content_type: str, files: list[str]
) -> dict[str, Any]:
    """Run all clients for `seconds` and summarize their responses."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}"
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\nContent-Length: "
    bodies = [Path(file).read_bytes() for file in files]
    requests = cycle([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])
    start = monotonic()
    clients = [client(parts.hostname or "", parts.port or 80, requests, start + seconds) for _ in range(connections)]
    found = [pair for pairs in await asyncio.gather(*clients) for pair in pairs]
    times = [1e3 * spent for _, spent in found]
    return {
        "answers": len(found),
        "refused": sum(status >= 400 for status, _ in found),
        "lost": 0,
        "seconds": monotonic() - start,
        "p50_ms": percentile(times, 0.5),
        "p99_ms": percentile(times, 0.99),
    }


if __name__ == "__main__":
    url, connections, seconds, content_type, *files = sys.argv[1:]
    print(json.dumps(asyncio.run(run_closed_loop(url, int(connections), float(seconds), content_type, files))))
