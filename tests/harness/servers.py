"""What measuring needs beside a cluster: Redis to compare with, a keyspace filled fast, and words for the report."""

import platform
import random
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cluster import HOST, Trouble, free_port

STARTS_WITHIN_S = 10
STOPS_WITHIN_S = 60
# Commands that are sent before their replies are read.
WINDOW = 2000


def listening(server):
    """A server of one process, once it takes connections; it is ended if it does not."""
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and server.process.poll() is None:
        try:
            socket.create_connection((HOST, server.port), 1).close()
            return server
        except OSError:
            time.sleep(0.02)
    server.__exit__()
    raise Trouble(f"{server.process.args[0]} does not start")


class Redis:
    """Redis alone, in a folder of its own, with these options; or a program that takes its place."""

    def __init__(self, options, parent=None, program="redis-server"):
        self.folder = tempfile.TemporaryDirectory(prefix="redis-", dir=parent)
        self.port = free_port()
        command = [program, "--port", str(self.port), "--bind", HOST, "--dir", self.folder.name, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        return listening(self)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(STOPS_WITHIN_S)
        self.folder.cleanup()


def fill(port, keys, value_bytes, ttl=False, seed=1):
    """SETs `key:` and twelve digits, once each, in an order that has nothing to do with slots. Values are random."""
    noise = random.Random(seed).randbytes(1 << 20)
    head = b"*%d\r\n$3\r\nSET\r\n$16\r\n" % (5 if ttl else 3)
    tail = b"\r\n$2\r\nEX\r\n$5\r\n86400\r\n" if ttl else b"\r\n"
    length = b"\r\n$%d\r\n" % value_bytes
    with socket.create_connection((HOST, port), 60) as connection:
        connection.settimeout(60)
        for first in range(0, keys, WINDOW):
            count = min(WINDOW, keys - first)
            out = bytearray()
            for number in range(first, first + count):
                at = (number * 2654435761) % (len(noise) - value_bytes)
                out += head + b"key:%012d" % number + length + noise[at : at + value_bytes] + tail
            connection.sendall(out)
            expect_ok(connection, count)


def expect_ok(connection, count):
    wanted = b"+OK\r\n" * count
    got = bytearray()
    while len(got) < len(wanted):
        piece = connection.recv(1 << 16)
        if not piece:
            raise Trouble("the server closed the connection")
        got += piece
    if got != wanted:
        raise Trouble(f"a SET was refused: {bytes(got).replace(b'+OK', b'').strip()[:200]!r}")


def metrics(port):
    """The samples of /metrics: (name, labels as they stand there) -> value."""
    with socket.create_connection((HOST, port), 10) as door:
        door.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        page = b"".join(iter(lambda: door.recv(1 << 16), b"")).decode()
    found = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", page, re.MULTILINE):
        found[name, labels] = float(value)
    return found


def cli(port, *arguments):
    return subprocess.run(["redis-cli", "-p", str(port), *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def slots_led(cluster, via):
    """Node -> the first slot of each range that it leads, as a cluster client learns it from `via`."""
    by_port = {node.port("cluster"): node for node in cluster.nodes}
    found = {}
    for line in cli(via.port("cluster"), "CLUSTER", "NODES").splitlines():
        _, address, _, _, _, _, _, _, *ranges = line.split()
        if ranges:
            found[by_port[int(re.match(r".*:(\d+)@", address)[1])]] = [int(each.split("-")[0]) for each in ranges]
    return found


def version_of(program, pattern):
    return re.search(pattern, subprocess.run([program, "--version"], capture_output=True, text=True).stdout)[1]


def redis_version():
    return version_of("redis-server", r"v=(\S+)")


def processor():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def table(head, rows):
    lines = [head, ["---" if n == 0 else "--:" for n in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(reached):
    return "reached" if reached else "**missed**"
