"""The HTTP/1.1 protocol of a connection: uvicorn's, except that an offer to upgrade the connection is ignored.

Java's HttpClient offers `Upgrade: h2c` with every request, and some proxies send `Upgrade: websocket`. A server may
ignore the offer (RFC 9110, section 7.8). httptools instead ends such a request after its headers: the body would be
lost. So the headers are parsed once more without the offer, by a new parser, which then finds the body.

CPU time of `GET /health/live`, the least of seven rounds of wrk: 0.31 ms as with uvicorn's own protocol, 0.34 ms with
an offer; 0.43 and 0.55 ms with h11, which needs none of this.
"""

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class UpgradeOffered(Exception):
    """The headers of a request that offers an upgrade are complete; `size` bytes of the data were parsed."""

    def __init__(self, size: int) -> None:
        self.size = size


class RequestParser(httptools.HttpRequestParser):
    """httptools' parser, which raises `UpgradeOffered`, and for CONNECT still `HttpParserUpgrade`."""

    def offers_upgrade(self) -> bool:
        """Whether the request offers an upgrade. CONNECT requires one, and has no body."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: bytes | memoryview) -> None:  # type: ignore[override]  # of any buffer
        """Parse data, which may contain parts of several requests."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.offers_upgrade():
                raise UpgradeOffered(offer.args[0]) from None
            raise


class HttpProtocol(HttpToolsProtocol):
    """One connection. A request that offers an upgrade reaches the application whole, without the header `Upgrade`."""

    parser: RequestParser

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._start_parser()

    def data_received(self, data: bytes | memoryview) -> None:
        """Parse the data of a segment, and start the requests whose headers are complete."""
        while True:
            try:
                return super().data_received(data)  # type: ignore[arg-type]  # httptools takes any buffer
            except UpgradeOffered as offer:
                data = memoryview(data)[offer.size :]
                head = self._head_without_offer()
                self._start_parser()
                super().data_received(head)

    def on_headers_complete(self) -> None:
        """Start a request, unless its headers will be parsed again."""
        if not self.parser.offers_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body of a request, unless its headers will be parsed again."""
        if not self.parser.offers_upgrade():
            super().on_message_complete()

    def _start_parser(self) -> None:
        self.parser = RequestParser(self)
        # As uvicorn does: a second request may follow one with `Connection: close`, and is not answered.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_offer(self) -> bytes:
        """The request line and headers that were parsed last, without `Upgrade`."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"\r\n"])
