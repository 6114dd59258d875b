"""Memory a key, HyperCache on one node beside Redis, both loaded with the same keys in the same run. Prints the figures and
writes docs/memory.md. It judges nothing: a missed bar is no failure, an error reply is.

What counts is the growth of the process's resident size from before the load to after it, everything included: log,
write buffers, filters. Keys have 16 bytes; values are random, so nothing can be packed. Each server is alone while it is
measured.
"""

import argparse
import datetime
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, Cluster, Trouble, end_on_sigterm, resident_mb  # noqa: E402
from servers import Redis, fill, redis_version, verdict  # noqa: E402

DOCUMENT = CHECKOUT / "docs" / "memory.md"
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


# Redis as Debian has it, in memory only.
REDIS_OPTIONS = ["--save", "", "--appendonly", "no"]


def plain_redis():
    return Redis(REDIS_OPTIONS)


class HyperCache:
    """One node, one group, replication factor 1."""

    def __init__(self, settings):
        self.cluster = Cluster(1, settings)

    def __enter__(self):
        self.cluster.__enter__()
        node = self.cluster.nodes[0]
        self.port, self.pid = node.port("resp"), node.process.pid
        return self

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
    with server:
        before = settled(server.pid)
        fill(server.port, keys, shape.value_bytes, shape.ttl, seed=1)
        fresh = settled(server.pid) - before
        for turn, size in enumerate(overwrites):
            fill(server.port, keys, size, shape.ttl, seed=2 + turn)
        again = settled(server.pid) - before if overwrites else None
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
        theirs, _ = grown(plain_redis(), shape, arguments.keys)
        overwrites = OVERWRITES if number == 0 else ()
        ours, again = grown(HyperCache(arguments.set), shape, arguments.keys, overwrites)
        if again is not None:
            churn = again / ours
        ratio = ours / theirs
        payload = 16 + shape.value_bytes
        rows.append((shape, theirs, ours, ratio, ours - payload))
        print(f"{shape.name}: Redis {theirs:.1f} B a key, HyperCache {ours:.1f} B ({ours - payload:.1f} of overhead), ratio {ratio:.3f}, bar {shape.bar}", flush=True)
        if again is not None:
            print(f"  after {len(overwrites)} overwrites of every key: {again:.1f} B a key, {churn:.2f} of the fresh figure, bar 1.20", flush=True)
    if arguments.write:
        DOCUMENT.write_text(document(rows, churn, arguments))


def document(rows, churn, arguments):
    version = redis_version()
    lines = [
        f"| {shape.name} | {redis:.1f} | {ours:.1f} | {overhead:.1f} | {ratio:.3f} | <= {shape.bar} | {verdict(ratio <= shape.bar)} |"
        for shape, redis, ours, ratio, overhead in rows
    ]
    overwritten = "" if churn is None else (
        f"\nAfter every key was overwritten five times, with values of {', '.join(map(str, OVERWRITES))} bytes in turn: "
        f"{churn:.2f} of the fresh figure (bar 1.20: {verdict(churn <= 1.2)}).\n"
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
