"""Speed, CPU time and size of three HyperCache nodes beside one Redis with appendfsync always, in the same run and on the
same disk, the two taking turns. Prints the figures and writes docs/benchmarks.md. It judges nothing: a missed bar is no
failure, an error reply is.

Two bare programs stand beside them, examples/limits.rs: the floor, which only appends, replicates and syncs what SET needs, and
the echo, which only answers.

Load is made by redis-benchmark. CPU time is what all server processes used, user and system, over the requests made.
Each figure is the median over the rounds; the spread is (max - min) / median of the throughput.
"""

import argparse
import csv
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, HOST, Cluster, Trouble, cpu_seconds, end_on_sigterm, example, free_port, resident_mb, tag_in  # noqa: E402
from servers import Redis, processor, redis_version, slots_led, table, verdict, version_of  # noqa: E402

DOCUMENT = CHECKOUT / "docs" / "benchmarks.md"
VALUE_BYTES = 64
# Connections and pipeline length.
SHAPES = [(50, 16), (1, 1), (50, 1), (200, 64)]
FORWARDED_CONNECTIONS = 8
FORWARDED_SLOTS = 4
IDLE_SETTLES_S = 3
IDLE_WATCHED_S = 10
RUN_WITHIN_S = 300
CALIBRATED_BY_S = 0.8
LIMIT_STARTS_WITHIN_S = 10


@dataclass(frozen=True)
class Scale:
    rounds: int
    seconds: float
    keys: int
    forwarded: int


FULL = Scale(rounds=3, seconds=3, keys=1_000_000, forwarded=100_000)
QUICK = Scale(rounds=1, seconds=1, keys=50_000, forwarded=8_000)


@dataclass
class Figures:
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@dataclass
class Row:
    """A load on a target, over the rounds."""

    rounds: list = field(default_factory=list)

    def median(self, name):
        return statistics.median(getattr(figures, name) for figures in self.rounds)

    def spread(self):
        rates = [figures.rate for figures in self.rounds]
        return 100 * (max(rates) - min(rates)) / self.median("rate")


class Target:
    """Something that redis-benchmark can be pointed at, and whose CPU time can be read."""

    def __init__(self, name, port, pids, cluster=False, keys=0):
        self.name, self.port, self.pids, self.cluster = name, port, pids, cluster
        # In cluster mode redis-benchmark gives the keys of each node the tag of one slot: so many keys a node.
        self.range = keys // len(pids) if cluster else keys

    def command(self, test, shape, requests):
        connections, pipeline = shape
        face = ["--cluster"] if self.cluster else []
        load = ["-c", connections, "-P", pipeline, "-n", requests, "-d", VALUE_BYTES, "-r", self.range, "-t", test]
        return ["redis-benchmark", "--csv", "-p", str(self.port), *face, *map(str, load)]

    def run(self, test, shape, requests):
        before = self.cpu()
        figures = benchmark(self.command(test, shape, requests))
        figures.cpu_us = 1e6 * (self.cpu() - before) / requests
        return figures

    def cpu(self):
        return sum(cpu_seconds(pid) for pid in self.pids)


def benchmark(command):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=RUN_WITHIN_S)
    rows = [row for row in csv.reader(ran.stdout.splitlines()) if len(row) == 8 and row[1] != "rps"]
    if ran.returncode != 0 or len(rows) != 1 or "rror" in ran.stderr:
        raise Trouble(f"{' '.join(command)}: {ran.stderr.strip() or ran.stdout.strip()}")
    _, rate, _, _, p50, _, p99, _ = rows[0]
    return Figures(float(rate), float(p50), float(p99), 0.0)


# The least that an operation can cost.
LIMITS = {"set": "floor", "get": "echo"}

# Redis alone, every write synced before it is acknowledged.
REDIS_OPTIONS = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]


class Limit:
    """Programs of examples/limits.rs: the floor with its two followers, or the echo."""

    def __init__(self, name, parent=None):
        self.name, self.processes = name, []
        self.folder = tempfile.TemporaryDirectory(prefix="limits-", dir=parent)
        self.ports = [free_port() for _ in range(3 if name == "floor" else 1)]

    def start(self, what, port, *rest):
        self.processes.append(subprocess.Popen([str(example("limits")), what, str(port), *rest]))

    def __enter__(self):
        port, *followers = self.ports
        file = lambda number: f"{self.folder.name}/{number}"  # noqa: E731
        for number, follower in enumerate(followers):
            self.start("follow", follower, file(number))
        for follower in followers:
            self.wait(f":{follower:04X} 00000000:0000 0A")
        if self.name == "floor":
            named = [word for follower in followers for word in ("--follower", f"{HOST}:{follower}")]
            self.start("floor", port, file("leader"), *named)
        else:
            self.start("echo", port)
        self.wait(f":{port:04X} 00000000:0000 0A")
        return self

    def wait(self, listening):
        """Until something listens there; a connection would be taken for a client."""
        until = time.monotonic() + LIMIT_STARTS_WITHIN_S
        while listening not in Path("/proc/net/tcp").read_text():
            if time.monotonic() > until or any(process.poll() is not None for process in self.processes):
                self.__exit__()
                raise Trouble(f"the {self.name} does not start")
            time.sleep(0.02)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        self.folder.cleanup()

    def target(self, keys):
        return Target(self.name, self.ports[0], [process.pid for process in self.processes], keys=keys)


class Bench:
    def __init__(self, scale, folder):
        self.scale, self.folder = scale, folder
        self.rows, self.commands, self.counts = {}, {}, {}

    def targets(self, redis, cluster):
        pids = [node.process.pid for node in cluster.nodes]
        keys = self.scale.keys
        return [
            Target("Redis", redis.port, [redis.pid], keys=keys),
            Target("HyperCache, leaders", cluster.nodes[0].port("cluster"), pids, cluster=True, keys=keys),
            Target("HyperCache, any node", cluster.nodes[0].port("resp"), pids, keys=keys),
        ]

    def fill(self, targets):
        """Every keyspace to about the same degree: twice as many random SETs as there are keys leave 86 % of them there."""
        for target in targets:
            benchmark(target.command("set", (50, 64), 2 * self.scale.keys))

    def measure(self, targets, test, level):
        for shape in SHAPES:
            for _ in range(self.scale.rounds):
                for target in targets:
                    self.one(target, test, level, shape)
            self.show(targets, test, level, shape)

    def one(self, target, test, level, shape):
        key = (test, level, shape, target.name)
        if key not in self.counts:
            self.counts[key] = self.requests_for(target, test, shape)
        requests = self.counts[key]
        self.rows.setdefault(key, Row()).rounds.append(target.run(test, shape, requests))

    def requests_for(self, target, test, shape):
        """As many, in whole pipelines of all connections, as a round takes. In cluster mode redis-benchmark looks whether
        it is done every 250 ms only, so short runs tell nothing: more and more until one is long enough."""
        whole = shape[0] * shape[1]
        requests = max(whole, 1000 // whole * whole)
        while True:
            seconds = requests / target.run(test, shape, requests).rate
            if seconds >= CALIBRATED_BY_S:
                return max(1, int(requests / seconds * self.scale.seconds / whole)) * whole
            requests *= min(10, max(2, int(1.5 * CALIBRATED_BY_S / seconds)))

    def show(self, targets, test, level, shape):
        for target in targets:
            row = self.rows[test, level, shape, target.name]
            print(
                f"{test} {level} {shape[0]}x{shape[1]} {target.name}: {row.median('rate'):.0f}/s, p50 {row.median('p50_ms'):.2f} ms, "
                f"p99 {row.median('p99_ms'):.2f} ms, {row.median('cpu_us'):.2f} us CPU, spread {row.spread():.0f} %",
                flush=True,
            )


def idle(cluster):
    """Resident size and share of a core, a node each, of a cluster that has served nothing."""
    time.sleep(IDLE_SETTLES_S)
    pids = [node.process.pid for node in cluster.nodes]
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(IDLE_WATCHED_S)
    shares = [100 * (cpu_seconds(pid) - old) / IDLE_WATCHED_S for pid, old in zip(pids, before)]
    sizes = [resident_mb(pid) for pid in pids]
    print(f"idle: {', '.join(f'{mb:.1f} MB' for mb in sizes)}; {', '.join(f'{share:.1f} %' for share in shares)} of a core")
    return sizes, shares


def slots_led_elsewhere(cluster, node):
    """Slots of other nodes, as many of the one as of the other: (slot, its leader)."""
    found = {leader: slots for leader, slots in slots_led(cluster, node).items() if leader is not node}
    share = max(1, FORWARDED_SLOTS // max(1, len(found)))
    return [(slot, leader) for leader, slots in found.items() for slot in slots[:: max(1, len(slots) // share)][:share]]


def forwarded(cluster, requests):
    """GETs through a node that does not lead their slot, and the same at the leader: worst p99 of each, and how many."""
    node = cluster.nodes[0]
    worst, done = {"forwarded": Figures(0, 0, 0, 0), "at the leader": Figures(0, 0, 0, 0)}, 0
    chosen = slots_led_elsewhere(cluster, node)
    for slot, leader in chosen:
        key = f"fwd:{{{tag_in(slot)}}}:__rand_int__"
        each = requests // len(chosen)
        load = ["-c", FORWARDED_CONNECTIONS, "-n", each, "-r", 1000]
        command = lambda at, *what: ["redis-benchmark", "--csv", "-p", str(at.port("resp")), *map(str, load), *what]  # noqa: E731
        benchmark(command(leader, "SET", key, "x" * VALUE_BYTES))
        for name, at in (("at the leader", leader), ("forwarded", node)):
            figures = benchmark(command(at, "GET", key))
            worst[name] = max(worst[name], figures, key=lambda each: each.p99_ms)
        done += each
    for name, figures in worst.items():
        print(f"{name}: {done} GETs, 0 failures, p50 {figures.p50_ms:.2f} ms, p99 {figures.p99_ms:.2f} ms")
    return worst, done


def loads_table(bench, test, level):
    rows = []
    for shape in SHAPES:
        base = bench.rows[test, level, shape, "Redis"]
        limit = bench.rows[test, level, shape, LIMITS[test]]
        for name in ("Redis", LIMITS[test], "HyperCache, leaders", "HyperCache, any node"):
            row = bench.rows[test, level, shape, name]
            rows.append([
                f"{shape[0]} x {shape[1]}, {name}",
                f"{row.median('rate'):,.0f}",
                f"{row.median('rate') / base.median('rate'):.2f}",
                f"{row.median('p50_ms'):.2f}",
                f"{row.median('p99_ms'):.2f}",
                f"{row.median('cpu_us'):.2f}",
                f"{row.median('cpu_us') / base.median('cpu_us'):.2f}",
                f"{row.median('cpu_us') / limit.median('cpu_us'):.2f}",
                f"{row.spread():.0f} %",
            ])
    return table(["connections x pipeline", "a second", "to Redis", "p50 ms", "p99 ms", "CPU us", "to Redis", f"to the {LIMITS[test]}", "spread"], rows)


def bars_table(bench, idled, fwd):
    """The bars of the first working whole, and what was measured."""
    at = lambda test, level, name: bench.rows[test, level, (50, 16), name]  # noqa: E731
    leaders = "HyperCache, leaders"
    ratio = at("set", "linearizable", leaders).median("rate") / at("set", "linearizable", "Redis").median("rate")
    worst, done = fwd
    rows = [
        ("durable SET, 50 x 16, to Redis", ">= 0.25", f"{ratio:.2f}", ratio >= 0.25),
        ("CPU of a SET, 50 x 16, all nodes", "<= 8 us", *at_most(at("set", "linearizable", leaders).median("cpu_us"), 8, "us")),
        ("CPU of a GET at lease, 50 x 16", "<= 2 us", *at_most(at("get", "lease", leaders).median("cpu_us"), 2, "us")),
        (f"{done:,} forwarded GETs, p99", "< 5 ms", *at_most(worst["forwarded"].p99_ms, 5, "ms")),
        ("resident size of an idle node", "<= 50 MB", *at_most(max(idled[0]), 50, "MB")),
        ("CPU of an idle node, share of a core", "< 5 %", *at_most(max(idled[1]), 5, "%")),
    ]
    return table(["what", "bar", "measured", ""], [[what, bar, told, verdict(ok)] for what, bar, told, ok in rows])


def at_most(value, bar, unit):
    return f"{value:.2f} {unit}", value <= bar


def document(bench, idled, fwd, busy, program):
    redis = redis_version()
    hypercache = version_of(str(program), r"(\d\S*)")
    worst, done = fwd
    slower = worst["forwarded"].p99_ms / worst["at the leader"].p99_ms
    scale = bench.scale
    return f"""# Benchmarks

Written by `scripts/bench`{' --quick' if scale is QUICK else ''}; do not edit. What it does is told in `tests/bench/bench.py`.

- {datetime.date.today()}, {os.cpu_count()} cores ({processor()}), Linux {platform.release().split('-')[0]}; servers and load share them.
- Load average when it began: {busy:.1f}. Above about 0.5 other work was using
  cores and disk too: then figures are low, and ratios are only as good as the spread is small.
- HyperCache {hypercache}, three nodes, 8 groups, `storage.sync: always`. Redis {redis} alone, `{' '.join(repr(o) if not o else o for o in REDIS_OPTIONS)}`.
- {scale.rounds} round(s) of about {scale.seconds} s a load, Redis and HyperCache taking turns; medians. Spread is (max - min) / median of the throughput.
- CPU is user and system time of all server processes, an operation. The *floor* has three processes that append, send on and sync each
  command with group commit and keep nothing; the *echo* is one thread that answers a constant (`examples/limits.rs`).
- *Leaders*: a cluster client, each command sent to the leader; redis-benchmark then uses one slot of each node, so three of
  the eight groups. *Any node*: a plain client, all of it sent to one node, the keys in all groups; two of three are forwarded.

## The bars

{bars_table(bench, idled, fwd)}

## SET

{loads_table(bench, "set", "linearizable")}

## GET, linearizable (the default)

{loads_table(bench, "get", "linearizable")}

## GET, lease

{loads_table(bench, "get", "lease")}

## Reads through a node that does not lead

{done:,} GETs from {FORWARDED_CONNECTIONS} connections without a pipeline, through the proxy face of one node, of keys that another leads; linearizable; 0 failures. The worst of {FORWARDED_SLOTS} slots:

{table(["", "p50 ms", "p99 ms"], [[name, f"{f.p50_ms:.2f}", f"{f.p99_ms:.2f}"] for name, f in worst.items()])}

The p99 is {slower:.2f} times that at the leader.

## Idle

A fresh cluster, {IDLE_SETTLES_S} s after it was ready, watched for {IDLE_WATCHED_S} s:

{table(["node", "resident MB", "% of a core"], [[str(n + 1), f"{mb:.1f}", f"{share:.1f}"] for n, (mb, share) in enumerate(zip(*idled))])}

## Commands

```
redis-server {' '.join(repr(o) if not o else o for o in REDIS_OPTIONS)}
hypercache server --config NODE.yaml            three of them, as `hypercache demo` configures them
hypercache server --config NODE.yaml --set cluster.consistency_level=lease
redis-benchmark --csv -p REDIS -c C -P P -n N -d {VALUE_BYTES} -r {scale.keys} -t set|get
redis-benchmark --csv -p 6479 --cluster -c C -P P -n N -d {VALUE_BYTES} -r {scale.keys // 3} -t set|get     as many keys: so many in a slot of each node
redis-benchmark --csv -p 6379 -c C -P P -n N -d {VALUE_BYTES} -r {scale.keys} -t set|get
redis-benchmark --csv -p 6379 -c {FORWARDED_CONNECTIONS} -n N -r 1000 GET 'fwd:{{TAG}}:__rand_int__'
```

N is as many as {scale.seconds} s take. Before the first load each keyspace is filled with twice as many random SETs as it has keys, so that 86 % of
them and more are there.
"""


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one short round; writes no document unless --write")
    options.add_argument("--write", action="store_true", help="writes docs/benchmarks.md after --quick, too")
    options.add_argument("--dir", help="where both keep their files: the disk that is measured")
    options = options.parse_args()
    scale = QUICK if options.quick else FULL
    busy = os.getloadavg()[0]
    bench = Bench(scale, options.dir)
    floor, echo = Limit("floor", options.dir), Limit("echo", options.dir)
    with Redis(REDIS_OPTIONS, parent=options.dir) as redis, floor, echo:
        with Cluster(3, parent=options.dir) as cluster:
            program = cluster.program
            idled = idle(cluster)
            targets = bench.targets(redis, cluster)
            bench.fill(targets)
            bench.measure([*targets, floor.target(scale.keys)], "set", "linearizable")
            bench.measure([*targets, echo.target(scale.keys)], "get", "linearizable")
            fwd = forwarded(cluster, scale.forwarded)
        with Cluster(3, ["cluster.consistency_level=lease"], parent=options.dir) as cluster:
            targets = bench.targets(redis, cluster)
            bench.fill(targets[1:])
            bench.measure([*targets, echo.target(scale.keys)], "get", "lease")
    text = document(bench, idled, fwd, busy, program)
    if options.write or not options.quick:
        DOCUMENT.write_text(text)
    print(bars_table(bench, idled, fwd))
    return 0


if __name__ == "__main__":
    end_on_sigterm()
    try:
        sys.exit(main())
    except Trouble as trouble:
        sys.exit(f"bench: {trouble}")
