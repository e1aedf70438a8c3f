"""Answers of a cluster are bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from distnum import TrainingError
from distnum.cli.submit import connection

MIB = 2**20


class Server(BaseHTTPRequestHandler):
    """Answers with as many bytes as the path asks for, and counts those sent."""

    n_sent = 0

    def do_GET(self) -> None:
        n_bytes = int(self.path.strip("/"))
        self.send_response(200)
        self.send_header("Content-Length", str(n_bytes))
        self.end_headers()
        try:
            for _ in range(0, n_bytes, MIB):
                self.wfile.write(b"a" * min(n_bytes, MIB))
                Server.n_sent += MIB
        except OSError:  # the client has closed the connection
            pass

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_answer_that_is_too_long_is_refused_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="ray[default] is not installed")
    monkeypatch.setattr(connection, "_LARGEST_ANSWER", 2 * MIB)
    kind = connection._client_class()
    client = kind.__new__(kind)
    client._cookies = client._headers = client._verify = None
    with serving() as client._address:
        assert client._do_request("GET", f"/{2 * MIB}").content == b"a" * 2 * MIB
        with pytest.raises(TrainingError, match="The cluster's answer has more than 2 MiB; it is refused"):
            client._do_request("GET", f"/{1000 * MIB}")
    assert Server.n_sent < 100 * MIB
