"""A small language server that speaks vLLM's completions: an exported language model of the library, in a thread."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class StubLanguageServer:
    """Answers greedily, a token at a time, as `vllm serve OUT --enable-prompt-embeds` does.

    Args:
        folder: of `groma export-lm`.
        port: 0 for a free one.

    Attributes:
        takes_embeddings: whether it was started with `--enable-prompt-embeds`.
        key: that it wants.
        names: of its models.
        limit: its `max_model_len`.
        pause: seconds before each token.
        before_piece: called with the number of pieces sent of an answer; may raise `ConnectionError`, to die.
        status: answered instead of anything else, with `message`.
        bodies: what it was asked.
        written: tokens of all answers.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.ends = self.model.generation_config.eos_token_id
        self.takes_embeddings, self.key, self.names, self.limit = True, None, ["lm"], 1024
        self.pause = 0.0
        self.before_piece: Callable[[int], None] = lambda number: None
        self.status: int | None = None
        self.message = "no luck"
        self.bodies: list[dict[str, Any]] = []
        self.written = self.running = self.most_running = self.left = 0
        self._lock = threading.Lock()
        self._start(port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "StubLanguageServer":
        return self

    def __exit__(self, *error: object) -> None:
        if not self.is_dead:
            self.stop()

    def stop(self) -> None:
        """Die: no new connections, and those that there are end."""
        self.is_dead = True
        self.server.shutdown()
        self.server.server_close()

    def start_again(self) -> None:
        """Come back, at the same address."""
        self._start(self.port)

    def answers(self) -> list[dict[str, Any]]:
        """The requests for words that were no probes."""
        return [body for body in self.bodies if body["stop_token_ids"]]

    def _start(self, port: int) -> None:
        self.is_dead = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self._is_dead():
                    return None
                if self.path != "/v1/models":
                    return self._respond(404, {"error": {"message": "no such page"}})
                if not self._may_pass():
                    return None
                data = [{"id": name, "parent": None, "max_model_len": outer.limit} for name in outer.names]
                return self._respond(200, {"object": "list", "data": data})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self._is_dead():
                    return
                outer.bodies.append(body)
                if not self._may_pass():
                    return
                try:
                    embeds = outer.embeddings(body)
                except ValueError as error:
                    self._respond(400, {"error": {"message": str(error)}})
                    return
                with outer._lock:
                    outer.running += 1
                    outer.most_running = max(outer.most_running, outer.running)
                try:
                    self._stream(embeds, body)
                except (ConnectionError, OSError):
                    outer.left += 1
                    self.close_connection = True
                finally:
                    with outer._lock:
                        outer.running -= 1

            def _is_dead(self) -> bool:
                """Whether a connection that was kept has outlived the server."""
                self.close_connection = self.close_connection or outer.is_dead
                return outer.is_dead

            def _may_pass(self) -> bool:
                if outer.status is not None:
                    self._respond(outer.status, {"error": {"message": outer.message}})
                elif outer.key is not None and self.headers.get("Authorization") != f"Bearer {outer.key}":
                    self._respond(401, {"error": "Unauthorized"})
                else:
                    return True
                return False

            def _respond(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, embeds: torch.Tensor, body: dict[str, Any]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for number, (token, reason) in enumerate(outer.tokens(embeds, body)):
                    outer.before_piece(number)
                    if outer.is_dead:
                        raise ConnectionError
                    choice = {"index": 0, "text": "", "token_ids": [token], "finish_reason": reason}
                    self._chunk(json.dumps({"choices": [choice]}))
                self._chunk("[DONE]")
                self.wfile.write(b"0\r\n\r\n")

            def _chunk(self, data: str) -> None:
                event = f"data: {data}\n\n".encode()
                self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
                self.wfile.flush()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def embeddings(self, body: dict[str, Any]) -> torch.Tensor:
        """The prompt of a request `(n, hidden_size)`, refused as vLLM does."""
        if body["model"] not in self.names:
            raise ValueError(f"The model `{body['model']}` does not exist.")
        if "prompt_embeds" not in body:
            ids = body["prompt"]
            if max(ids) >= self.model.config.vocab_size:
                raise ValueError(f"Token id {max(ids)} is out of vocabulary")
            return self.model.get_input_embeddings()(torch.tensor(ids))
        if not self.takes_embeddings:
            raise ValueError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True)), weights_only=True)
        width = self.model.config.hidden_size
        if embeds.shape[1] != width:
            raise ValueError(f"`prompt_embeds` hidden_size {embeds.shape[1]} does not match {width}.")
        if len(embeds) + body["max_tokens"] > self.limit:
            raise ValueError(f"This model's maximum context length is {self.limit} tokens.")
        return embeds

    @torch.no_grad()
    def tokens(self, embeds: torch.Tensor, body: dict[str, Any]):
        """The answer's ids, each with the reason why it is the last."""
        assert body["stream"] and body["return_token_ids"] and body["temperature"] == 0
        inputs: dict[str, Any] = {"inputs_embeds": embeds[None]}
        ends = {*body["stop_token_ids"], *(() if body["ignore_eos"] else (self.ends,))}
        for number in range(1, body["max_tokens"] + 1):
            time.sleep(self.pause)
            with self._lock:
                output = self.model(**inputs, use_cache=True)
            token = int(output.logits[0, -1].argmax())
            inputs = {"input_ids": torch.tensor([[token]]), "past_key_values": output.past_key_values}
            is_end = token in ends
            self.written += 1
            yield token, "stop" if is_end else "length" if number == body["max_tokens"] else None
            if is_end:
                return
