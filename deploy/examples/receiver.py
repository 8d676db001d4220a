"""A webhook receiver with nothing but Python: copy it, or run it to see what arrives.

    python receiver.py whsec_… [PORT]

It answers 401 to whatever is not signed with the secret, or not lately, and says when it has seen a
message before: ours arrive at least once, in no promised order.
"""

import base64
import hashlib
import hmac
import http.server
import json
import sys
import time
from collections.abc import Callable, Mapping

MOST_BYTES = 20_000
TOLERANCE_SECONDS = 300


def verify(headers: Mapping[str, str], body: bytes, secret: str) -> str | None:
    """What is wrong with a message, or None if it is ours: see standardwebhooks.com."""
    try:
        id_, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        age = abs(time.time() - int(timestamp))
        signatures = headers["webhook-signature"].split()
    except (KeyError, ValueError):
        return "it is not signed"
    if age > TOLERANCE_SECONDS:
        return "it is not of these five minutes"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join((id_.encode(), timestamp.encode(), body))
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # Several while the secret is being changed; compared without telling how far they agree.
    if any(hmac.compare_digest(expected.encode(), given.encode()) for given in signatures):
        return None
    return "it is signed with another secret, or was changed on its way"


def make_server(
    host: str, port: int, secret: str, tell: Callable[[str], None]
) -> http.server.ThreadingHTTPServer:
    """Listens from now on; `serve_forever` answers. Port 0 takes any free one.

    Raises ValueError for what is no secret of an endpoint.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("This is no secret of an endpoint: whsec_ and base64.")
    seen: set[str] = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 15
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > MOST_BYTES:
                self.close_connection = True
                self._answer(413)
                return
            body = self.rfile.read(int(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            problem = verify(headers, body, secret)
            if problem:
                tell(f"refused: {problem}")
                self._answer(401)
                return
            # A real receiver puts it into its own queue here, and answers soon: within 15 s.
            id_ = headers["webhook-id"]
            tell(
                f"{id_}{' again' if id_ in seen else ''}\n{json.dumps(json.loads(body), indent=2)}"
            )
            seen.add(id_)
            self._answer(204)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """`tell` says what there is to say."""

    return http.server.ThreadingHTTPServer((host, port), Handler)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("Usage: python receiver.py whsec_… [PORT]")
    try:
        port = int(sys.argv[2]) if len(sys.argv) > 2 else 9000
        server = make_server("127.0.0.1", port, sys.argv[1], lambda text: print(text, flush=True))
    except (ValueError, OverflowError, OSError) as error:
        sys.exit(str(error))
    print(f"listening on port {server.server_port}", flush=True)
    server.serve_forever()
