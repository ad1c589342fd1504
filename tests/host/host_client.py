"""A client of the host's API: queue a graph, follow it over the websocket, cancel it. Standard library only."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PREVIEW, PREVIEW_WITH_METADATA = 1, 4


class Rejected(Exception):
    """The host refused the graph before anything ran."""


class WebSocket:
    """The client's side of RFC 6455, as far as the host uses it: no extensions, no compression."""

    def __init__(self, host: str, port: int, path: str, timeout: float) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        request = (f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
                   f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "")  # fmt: skip
        self.socket.sendall("\r\n".join(request).encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"no websocket: {status!r}")
        while self.stream.readline().strip():
            pass

    def send(self, data: bytes, opcode: int = TEXT) -> None:
        """Send one masked frame."""
        size, mask = len(data), os.urandom(4)
        length = bytes([128 | size]) if size < 126 else struct.pack(">BH", 128 | 126, size)
        self.socket.sendall(bytes([128 | opcode]) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def exactly(self, size: int) -> bytes:
        data = self.stream.read(size)
        if data is None or len(data) < size:
            raise ConnectionError("the host closed the websocket")
        return data

    def frame(self) -> tuple[bool, int, bytes]:
        """Return (is it the last, opcode, payload)."""
        first, second = self.exactly(2)
        size = second & 127
        if size >= 126:
            size = struct.unpack(">H" if size == 126 else ">Q", self.exactly(2 if size == 126 else 8))[0]
        return bool(first & 128), first & 15, self.exactly(size)

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (TEXT or BINARY, payload) until the host closes."""
        kind, parts = 0, b""
        while True:
            last, opcode, payload = self.frame()
            if opcode == CLOSE:
                return
            if opcode == PING:
                self.send(payload, PONG)
            elif opcode in (CONTINUATION, TEXT, BINARY):
                kind, parts = (opcode or kind), (parts + payload if opcode == CONTINUATION else payload)
                if last:
                    yield kind, parts

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@dataclass
class Run:
    """What one queued graph did.

    end: "success", "error" or "interrupted".
    outputs: node -> what it showed;  previews: node -> number of pictures;  progress: node -> (value, of) messages.
    """

    end: str = ""
    error: str = ""
    seconds: float = 0.0
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    previews: Counter[str] = field(default_factory=Counter)
    preview: bytes = b""
    progress: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def succeeded(self) -> Run:
        assert self.end == "success", f"{self.end}: {self.error}"
        return self


@dataclass(frozen=True, kw_only=True)
class Client:
    """Talks to one server.

    base: its base folder, where the files that it saves are read from.
    """

    port: int
    base: Path
    timeout: float = 300.0

    def text(self, path: str) -> str:
        """GET; urllib's HTTPError where there is no such page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=self.timeout) as reply:
            return reply.read().decode()

    def get(self, path: str) -> Any:
        """GET JSON."""
        return json.loads(self.text(path))

    def post(self, path: str, body: Any) -> Any:
        """Post JSON; Rejected with the host's words where it says no."""
        data = json.dumps(body).encode()
        url, headers = f"http://127.0.0.1:{self.port}{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            raise Rejected(error.read().decode(errors="replace")) from None

    def run(self, prompt: Prompt, watch: Callable[[Run], None] | None = None) -> Run:
        """Queue a graph in API form and follow it to its end.

        watch: called after every message with the run so far, e.g. to cancel it.
        Raises: Rejected, ConnectionError, TimeoutError.
        """
        name = uuid.uuid4().hex
        link = WebSocket("127.0.0.1", self.port, f"/ws?clientId={name}", self.timeout)
        try:
            link.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}).encode())
            answer = self.post("/prompt", {"prompt": prompt, "client_id": name})
            if answer.get("node_errors"):
                raise Rejected(json.dumps(answer["node_errors"]))
            return self.follow(link, answer["prompt_id"], watch)
        finally:
            link.close()

    def follow(self, link: WebSocket, prompt_id: str, watch: Callable[[Run], None] | None) -> Run:
        run, started = Run(), time.perf_counter()
        for kind, payload in link.messages():
            if kind == BINARY:
                take_preview(run, payload)
            else:
                message = json.loads(payload)
                if message.get("data", {}).get("prompt_id", prompt_id) == prompt_id:
                    take_message(run, message["type"], message.get("data", {}))
            if run.end:
                break
            if watch:
                watch(run)
        run.seconds = time.perf_counter() - started
        return run

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def file(self, entry: dict[str, str]) -> Path:
        """The file behind one entry of an output node's list."""
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]

    def files(self, run: Run, kind: str = "images") -> list[Path]:
        """Every file of that kind that the run saved, by node."""
        return [self.file(e) for n in sorted(run.outputs, key=int) for e in (run.outputs[n] or {}).get(kind, ())]


def take_preview(run: Run, payload: bytes) -> None:
    kind = struct.unpack(">I", payload[:4])[0]
    if kind == PREVIEW_WITH_METADATA:
        size = struct.unpack(">I", payload[4:8])[0]
        run.previews[str(json.loads(payload[8 : 8 + size]).get("node_id"))] += 1
        run.preview = payload[8 + size :]
    elif kind == PREVIEW:
        run.previews[""] += 1
        run.preview = payload[8:]


def take_message(run: Run, kind: str, data: dict[str, Any]) -> None:
    if kind == "progress":
        run.progress.setdefault(str(data["node"]), []).append((int(data["value"]), int(data["max"])))
    elif kind == "executed":
        run.outputs[str(data["node"])] = data["output"] or {}
    elif kind == "execution_error":
        run.end, run.error = "error", f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}"
    elif kind in ("execution_success", "execution_interrupted"):
        run.end = kind.removeprefix("execution_")
