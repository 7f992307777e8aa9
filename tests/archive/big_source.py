"""A process that serves MP4s of any length from memory: ``GET /<bytes>``; prints its port first."""

from __future__ import annotations

import socket

_BLOCK = bytes(1 << 20)


def _head(size: int) -> bytes:
    head = (20).to_bytes(4, "big") + b"ftypisom" + bytes(8) + (8).to_bytes(4, "big") + b"moov"
    return head + (1).to_bytes(4, "big") + b"mdat" + (size - len(head)).to_bytes(8, "big")


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            connection, _ = listening.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(4096)
                size = int(request.split()[1].removeprefix(b"/"))
                head = _head(size)
                connection.sendall(
                    f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {size}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + head
                )
                left = size - len(head)
                while left:
                    connection.sendall(_BLOCK[: min(left, len(_BLOCK))])
                    left -= min(left, len(_BLOCK))


if __name__ == "__main__":
    main()
