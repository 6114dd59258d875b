"""A load on the HTTP door over keep-alive connections, each with a thread: as fast as it is answered, or at a fixed rate, with the latency of each
request counted from the moment it was due."""

import socket
import threading
import time

from cluster import HOST, Trouble

ANSWERED_WITHIN_S = 10


class Asking(threading.Thread):
    """One connection. `due(nth)` says when its nth request is, None when there are no more."""

    def __init__(self, port, request, due):
        super().__init__()
        self.request, self.due = request, due
        self.latencies, self.trouble = [], None
        self.door = socket.create_connection((HOST, port), ANSWERED_WITHIN_S)
        self.door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = b""

    def run(self):
        try:
            nth = 0
            while (due := self.due(nth)) is not None:
                time.sleep(max(0, due - time.monotonic()))
                self.door.sendall(self.request(nth))
                self.answer()
                self.latencies.append(time.monotonic() - due)
                nth += 1
        except (OSError, ValueError, Trouble) as trouble:
            self.trouble = trouble
        finally:
            self.door.close()

    def answer(self):
        while b"\r\n\r\n" not in self.input:
            self.more()
        head, _, self.input = self.input.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        while len(self.input) < length:
            self.more()
        body, self.input = self.input[:length], self.input[length:]
        if lines[0].split()[1] != b"200":
            raise Trouble(f"{lines[0].decode()}: {body.decode()}")

    def more(self):
        piece = self.door.recv(1 << 16)
        if not piece:
            raise Trouble("the server closed the connection")
        self.input += piece


def ask(port, request, connections, seconds, rate=None):
    """Requests a second, and percentiles in milliseconds. `request(connection, nth)` gives the bytes."""
    start = time.monotonic() + 0.1
    end = start + seconds

    def when(number):
        def due(nth):
            at = start + (nth * connections + number) / rate if rate else max(start, time.monotonic())
            return at if at < end else None

        return due

    asking = [Asking(port, lambda nth, number=number: request(number, nth), when(number)) for number in range(connections)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    for each in asking:
        if each.trouble:
            raise Trouble(f"HTTP: {each.trouble}")
    latencies = sorted(latency for each in asking for latency in each.latencies)
    at = lambda share: 1000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))]  # noqa: E731
    return {"rate": len(latencies) / (time.monotonic() - start), "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "count": len(latencies)}
