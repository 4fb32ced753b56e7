"""The guard in front of every request: a secret in the address, Host and Origin, size bounds, strict headers.

The server runs on the user's own machine, next to a browser that also shows pages of other sites. Such a page cannot
read the study or run the model: it does not know the secret and cannot forge Host or Origin. The viewer's own page
loads nothing from elsewhere.
"""

import secrets
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 1 << 20  # of a request's body
MOST_PATH = 512
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' blob: "
    "data:; worker-src 'self' blob:; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token():
    """Make a secret for the address of the page."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI application that forwards only requests that may come from the page itself.

    ``token`` is the first part of every path; ``app`` gets the path behind it. ``hosts`` are the names under which the
    server may be addressed, without ports: a tunnel may change the port.
    """

    def __init__(self, app, token, hosts=LOOPBACK):
        self.app, self.token, self.hosts = app, token, tuple(host.lower() for host in hosts)

    async def __call__(self, scope, receive, send):
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        body, too_long = await _body(receive)
        if too_long:
            await _refuse(send, 413, f"The request is longer than {MOST_BYTES} bytes. Send a shorter text.")
            return
        path = scope["path"][len(self.token) + 1 :]
        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await self.app(inner, _again(body, receive), _with_headers(send))

    def _refusal(self, scope):
        """Status and sentence of a request that must not pass, or None."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if _hostname(f"//{host}") not in self.hosts:
            return 403, "This host name is not allowed. Open the address that 'llmbrain view' printed."
        origin = headers.get(b"origin")
        posts = scope["method"] == "POST"
        own = f"{scope.get('scheme', 'http')}://{host}".lower()
        if (origin is not None or posts) and (origin or "").lower() != own:
            return 403, "The request comes from another page."
        if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "The request comes from another page."
        given = scope["path"][1 : len(self.token) + 1].encode("utf-8", "replace")
        known = secrets.compare_digest(given, self.token.encode())
        if not known or scope["path"][len(self.token) + 1 :][:1] != "/" or len(scope["path"]) > MOST_PATH:
            return 404, "There is nothing here. Open the address that 'llmbrain view' printed."
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "Only GET and POST are allowed."
        if posts and headers.get(b"content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "The body must be application/json."
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return 413, f"The request is longer than {MOST_BYTES} bytes. Send a shorter text."
        return None


def _hostname(address):
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _body(receive):
    """The whole body, and whether it is too long."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts), False
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return b"", True
        if not message.get("more_body"):
            return b"".join(parts), False


def _again(body, receive):
    """A ``receive`` that returns a body that was already read, and then waits for the client to disconnect."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again():
        return messages.pop() if messages else await receive()

    return receive_again


def _with_headers(send):
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def send_with_headers(message):
        if message["type"] == "http.response.start":
            kept = [(n, v) for n, v in message.get("headers", []) if n.decode().lower() not in HEADERS]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return send_with_headers


async def _refuse(send, status, sentence):
    import json

    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    send = _with_headers(send)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
