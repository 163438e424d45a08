"""A local OpenAI-compatible server that can fail in every way."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Response = Callable[[BaseHTTPRequestHandler], None]


def completion(
    content: str | None, tokens: tuple[int, int] | None = (1000, 100), delay: float = 0.0, **choice
) -> Response:
    """A chat completion with this text; `choice` replaces fields of its only choice."""
    body: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub-2",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", **choice}
        ],
    }
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return raw(200, json.dumps(body), delay=delay)


def failure(status: int, code: str | None = None, message: str = "no luck", **headers: str) -> Response:
    """An error as OpenAI words it."""
    return raw(status, json.dumps({"error": {"message": message, "type": "x", "code": code}}), **headers)


def raw(status: int, body: str, delay: float = 0.0, **headers: str) -> Response:
    """Any response."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(delay)
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body.encode())))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return respond


def raw_bytes(body: bytes, **headers: str) -> Response:
    """Any body, with status 200."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def endless(pause: float, part: bytes = b" ", in_headers: bool = False, status: int = 200) -> Response:
    """A body, or a header, that never ends: a part of it after every pause, in seconds."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        if in_headers:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        else:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.end_headers()
        end = time.monotonic() + 20  # the client has left long before
        while time.monotonic() < end:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(pause)

    return respond


def echo_of_headers(status: int = 200, form: Callable[[str], str] = str) -> Response:
    """Says what the server was told, the key among it."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        told = form(handler.headers["Authorization"].removeprefix("Bearer "))
        answer = completion(f"You said {told}.") if status == 200 else failure(status, message=f"Bad key {told}!")
        answer(handler)

    return respond


class ChatServer:
    """Gives each question the replies written down for it, the last one again and again.

    Args:
        name_of: names a question by the body of its request.
        default: the reply to a question with none written down.
    """

    def __init__(self, name_of: Callable[[Mapping[str, Any]], str], default: Response) -> None:
        self.replies: dict[str, list[Response]] = {}
        self.requests: list[tuple[str, float]] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.most_busy = 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = name_of(body)
                with lock:
                    outer.requests.append((name, time.monotonic()))
                    outer.bodies.append(body | {"path": self.path})
                    outer.headers.append({key.lower(): value for key, value in self.headers.items()})
                    replies = outer.replies.get(name, [default])
                    respond = replies.pop(0) if len(replies) > 1 else replies[0]
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                try:
                    respond(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client had a time-out
                finally:
                    with lock:
                        outer.busy -= 1

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def asked(self) -> list[str]:
        return [name for name, _ in self.requests]

    @contextmanager
    def running(self) -> Iterator["ChatServer"]:
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
