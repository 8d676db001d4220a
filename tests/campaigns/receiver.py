"""A receiver of webhooks in a process of its own, which can be asked what has arrived."""

import http.server
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from standardwebhooks import Webhook


def receive(pipe: Connection) -> None:
    """A process of its own: counts by id, verifies with either secret."""
    secrets: list[str] = []
    seen: dict[str, int] = {}
    arrived: dict[str, float] = {}
    unverified = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            nonlocal unverified
            at = time.time()
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # the sender was killed between header and body
                self.close_connection = True
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            verified = 0
            for secret in secrets:
                try:
                    Webhook(secret).verify(body, headers)
                    verified += 1
                except Exception:
                    pass
            unverified += not verified
            seen[headers["webhook-id"]] = seen.get(headers["webhook-id"], 0) + 1
            arrived.setdefault(json.loads(body)["data"].get("id", ""), at)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # connections of the killed end as they end
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_port)
    while True:
        try:
            asked, value = pipe.recv()
        except EOFError:  # the campaign is over
            return
        if asked == "secret":
            secrets.append(value)
            pipe.send(None)
        elif asked == "forget":
            seen.clear()
            pipe.send(None)
        else:
            pipe.send((dict(seen), dict(arrived), unverified))


def start(what: Callable[[Connection], None]) -> tuple[Connection, int]:
    """A receiver in a process of its own, and its port."""
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=what, args=(theirs,), daemon=True).start()
    return ours, ours.recv()
