"""`Outgoing`: takes known secrets out of every answer, also of routes that others wrote."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..known_secrets import clean


class Outgoing:
    """Cleans the bodies of answers. A stream is cleaned piece by piece; any other answer as a whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def send_cleaned(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message  # it says how long the body is
                return
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                cleaned = _cleaned(body)
                if start is not None:
                    headers = MutableHeaders(scope=start)
                    if cleaned is not body and "content-length" in headers:
                        headers["content-length"] = str(len(cleaned))
                    await send(start)
                    start = None
                message = {**message, "body": cleaned}
            await send(message)

        await self._app(scope, receive, send_cleaned)


def _cleaned(body: bytes) -> bytes:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body  # compressed, or cut within a character
    cleaned = clean(text)
    return body if cleaned is text else cleaned.encode()
