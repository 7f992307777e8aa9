"""A receiver of callbacks on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .caller import eventually


@dataclass
class Event:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def word(self) -> str:
        return self.json.get("task_status") or self.json["status"]


@dataclass
class Receiver:
    """Answers 200, but for what ``answers`` says first; a negative one is a wait of so many seconds."""

    url: str = ""
    events: list[Event] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for(self, number: int) -> list[Event]:
        return eventually(lambda: list(self.events) if len(self.events) >= number else None)

    def words(self, number: int) -> list[str]:
        return [event.word for event in self.wait_for(number)]


@contextmanager
def receiving(answers: Sequence[float] = ()) -> Iterator[Receiver]:
    receiver = Receiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with receiver.lock:
                receiver.busy += 1
                receiver.most_busy = max(receiver.most_busy, receiver.busy)
                answer = receiver.answers.pop(0) if receiver.answers else 200
            if answer < 0:
                time.sleep(-answer)
            with receiver.lock:
                receiver.busy -= 1
                receiver.events.append(Event(self.path, headers, body, time.monotonic()))
            try:
                self.send_response(200 if answer < 0 else int(answer))
                self.send_header("location", "http://192.0.2.1/elsewhere")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")
            except OSError:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
