"""Memory a key, HyperCache on one node beside Redis, both loaded with the same keys in the same run. Prints the figures and
writes docs/memory.md. It judges nothing: a missed bar is no failure, an error reply is.

What counts is the growth of the process's resident size from before the load to after it, everything included: log,
write buffers, filters. Keys have 16 bytes; values are random, so nothing can be packed. Each server is alone while it is
measured.
"""

import argparse
import datetime
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, HOST, Cluster, Trouble, end_on_sigterm, free_port, resident_mb  # noqa: E402

DOCUMENT = CHECKOUT / "docs" / "memory.md"
# Commands that are sent before their replies are read.
WINDOW = 2000
# Sizes of the values with which every key is overwritten, one after the other; the last is the first again.
OVERWRITES = [8, 100, 20, 60, 32]
SETTLES_S = 12


@dataclass(frozen=True)
class Shape:
    name: str
    value_bytes: int
    ttl: bool
    bar: float
    aim: float


SHAPES = [
    Shape("32-byte values", 32, False, 0.55, 0.47),
    Shape("8-byte values", 8, False, 0.50, 0.36),
    Shape("32-byte values, each with a TTL", 32, True, 0.45, 0.37),
    Shape("100-byte values", 100, False, 0.75, 0.68),
]


def load(port, keys, value_bytes, ttl, seed):
    """SETs every key once, in an order that has nothing to do with its slot."""
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


class Redis:
    """Redis as Debian has it, in memory only."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="redis-")
        self.port = free_port()
        command = ["redis-server", "--port", str(self.port), "--bind", HOST, "--dir", self.folder.name, "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def __enter__(self):
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return self.port, self.process.pid
            except OSError:
                time.sleep(0.02)
        raise Trouble("redis-server does not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.folder.cleanup()


class HyperCache:
    """One node, one group, replication factor 1."""

    def __init__(self, settings):
        self.cluster = Cluster(1, settings)

    def __enter__(self):
        self.cluster.__enter__()
        node = self.cluster.nodes[0]
        return node.port("resp"), node.process.pid

    def __exit__(self, *_):
        self.cluster.stop()


def settled(pid):
    """The resident size once it has stopped falling: allocators give pages back late."""
    sizes = []
    until = time.monotonic() + SETTLES_S
    while time.monotonic() < until:
        sizes.append(resident_mb(pid))
        time.sleep(1)
    return min(sizes[-3:])


def grown(server, shape, keys, overwrites=()):
    """Bytes a key of resident growth after the load, and again after all keys were overwritten with each of the sizes."""
    with server as (port, pid):
        before = settled(pid)
        load(port, keys, shape.value_bytes, shape.ttl, seed=1)
        fresh = settled(pid) - before
        for turn, size in enumerate(overwrites):
            load(port, keys, size, shape.ttl, seed=2 + turn)
        again = settled(pid) - before if overwrites else None
    a_key = lambda mb: None if mb is None else mb * 2**20 / keys  # noqa: E731
    return a_key(fresh), a_key(again)


def main():
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keys", type=int, default=5_000_000)
    parser.add_argument("--shapes", type=int, nargs="*", default=range(len(SHAPES)), help="numbers of the shapes to measure")
    parser.add_argument("--set", action="append", default=[], help="a setting of the server, as its --set takes it")
    parser.add_argument("--write", action="store_true", help="write docs/memory.md")
    arguments = parser.parse_args()
    rows, churn = [], None
    for number in arguments.shapes:
        shape = SHAPES[number]
        redis, _ = grown(Redis(), shape, arguments.keys)
        overwrites = OVERWRITES if number == 0 else ()
        ours, again = grown(HyperCache(arguments.set), shape, arguments.keys, overwrites)
        if again is not None:
            churn = again / ours
        ratio = ours / redis
        payload = 16 + shape.value_bytes
        rows.append((shape, redis, ours, ratio, ours - payload))
        print(f"{shape.name}: Redis {redis:.1f} B a key, HyperCache {ours:.1f} B ({ours - payload:.1f} of overhead), ratio {ratio:.3f}, bar {shape.bar}", flush=True)
        if again is not None:
            print(f"  after {len(overwrites)} overwrites of every key: {again:.1f} B a key, {churn:.2f} of the fresh figure, bar 1.20", flush=True)
    if arguments.write:
        DOCUMENT.write_text(document(rows, churn, arguments))


def document(rows, churn, arguments):
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split("v=")[1].split()[0]
    lines = [
        f"| {shape.name} | {redis:.1f} | {ours:.1f} | {overhead:.1f} | {ratio:.3f} | <= {shape.bar} | {'reached' if ratio <= shape.bar else '**missed**'} |"
        for shape, redis, ours, ratio, overhead in rows
    ]
    overwritten = "" if churn is None else (
        f"\nAfter every key was overwritten five times, with values of {', '.join(map(str, OVERWRITES))} bytes in turn: "
        f"{churn:.2f} of the fresh figure (bar 1.20: {'reached' if churn <= 1.2 else '**missed**'}).\n"
    )
    return f"""# Memory a key

Written by `scripts/memory --write`; do not edit. What it does is told in `tests/bench/memory.py`.

- {datetime.date.today()}, {os.cpu_count()} cores. {arguments.keys:,} keys of 16 bytes; bytes a key of growth of the resident size.
- Redis {version}, `--save '' --appendonly no`. HyperCache: one node, one group, replication factor 1, log and write buffers included.

| | Redis | HyperCache | of it overhead | ratio | bar | |
| --- | --: | --: | --: | --: | --: | --: |
{chr(10).join(lines)}
{overwritten}"""


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"memory: {trouble}")
