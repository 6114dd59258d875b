"""Loads, and what is measured of them: throughput, latency and CPU time of all server processes, in rounds in which those that are
compared take turns.

Most load is made by redis-benchmark. What it cannot say is made by examples/load.rs (an open loop, a mix, keys by Zipf, error
replies told apart) and examples/peers.rs (peers that do not speak Redis' protocol).
"""

import json
import re
import resource
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import HOST, Trouble, cpu_seconds, example, free_port, resident_mb
from servers import cli

VALUE_BYTES = 64
# Connections and pipeline length.
SHAPES = [(1, 1), (50, 1), (50, 16), (200, 64)]
MIDDLE = (50, 16)
FILLING = (50, 64)
RUN_WITHIN_S = 300
CALIBRATED_BY_S = 0.8
LIMIT_STARTS_WITHIN_S = 10
LED_WITHIN_S = 10
# The group of the cluster's own, which has no keys.
META = 0

# Redis alone, every write synced before it is acknowledged.
REDIS_OPTIONS = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]


@dataclass(frozen=True)
class Scale:
    quick: bool
    rounds: int
    seconds: float
    keys: int
    many_keys: int
    idle_connections: int


FULL = Scale(quick=False, rounds=3, seconds=2, keys=1_000_000, many_keys=5_000_000, idle_connections=10_000)
QUICK = Scale(quick=True, rounds=1, seconds=1, keys=50_000, many_keys=100_000, idle_connections=1_000)


@dataclass
class Bench:
    """What every part is given."""

    scale: Scale
    # Where servers keep their files: the disk that is measured.
    folder: str | None
    # Another program that takes Redis' options, by its path.
    valkey: str | None


@dataclass
class Figures:
    """One round of a load."""

    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float = 0.0


def row_of(rounds):
    """Medians of the rounds, and how far apart they are: (max - min) / median of the throughput and of the CPU time."""
    row = {name: statistics.median(getattr(each, name) for each in rounds) for name in Figures.__dataclass_fields__}
    for name in ("rate", "cpu_us"):
        all_of_them = [getattr(each, name) for each in rounds]
        row[f"{name}_spread"] = (max(all_of_them) - min(all_of_them)) / row[name] if row[name] else 0.0
    return row


def told(row):
    return (
        f"{row['rate']:,.0f}/s, p50 {row['p50_ms']:.2f}, p99 {row['p99_ms']:.2f}, p99.9 {row['p999_ms']:.2f} ms, "
        f"{row['cpu_us']:.2f} us CPU, spread {100 * row['rate_spread']:.0f} %"
    )


def say(text):
    print(text, flush=True)


def shown(shape):
    return f"{shape[0]} x {shape[1]}" if shape[1] > 1 else f"{shape[0]} conn"


def redis_benchmark(port, shape, *what, cluster=False, value_bytes=VALUE_BYTES, keys=1):
    connections, pipeline = shape
    face = ["--cluster"] if cluster else []
    load = ["-c", connections, "-P", pipeline, "-d", value_bytes, "-r", keys, *what]
    return ["redis-benchmark", "-p", str(port), *face, *map(str, load)]


class Load:
    """redis-benchmark, once or several at the same time, and the servers' processes that pay for it."""

    def __init__(self, name, pids, *commands, before=lambda: None, first=1000):
        """`before` is called before each round; `first` are the requests with which it is found out how many a round takes."""
        self.name, self.pids, self.commands, self.before, self.first = name, list(pids), commands, before, first
        words = commands[0]
        # Whole pipelines of all connections.
        self.whole = int(words[words.index("-c") + 1]) * int(words[words.index("-P") + 1])

    def run(self, requests):
        """So many requests by each command."""
        self.before()
        began = cpu(self.pids)
        running = [Running(command, requests) for command in self.commands]
        all_of_them = [each.figures() for each in running]
        worst = {name: max(getattr(each, name) for each in all_of_them) for name in ("p50_ms", "p99_ms", "p999_ms")}
        used = 1e6 * (cpu(self.pids) - began) / (requests * len(self.commands))
        return Figures(rate=sum(each.rate for each in all_of_them), cpu_us=used, **worst)

    def requests_for(self, seconds):
        """As many as take so long. redis-benchmark looks whether it is done every 250 ms only in cluster mode, so short runs tell
        nothing: more and more until one is long enough."""
        requests = max(self.whole, self.first // self.whole * self.whole)
        while True:
            took = requests * len(self.commands) / self.run(requests).rate
            if took >= CALIBRATED_BY_S:
                return max(1, int(requests / took * seconds / self.whole)) * self.whole
            requests *= min(10, max(2, int(1.5 * CALIBRATED_BY_S / took)))


class Running:
    """A redis-benchmark under way."""

    def __init__(self, command, requests):
        program, *words = command
        self.command = [program, "-n", str(requests), *words]
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def figures(self):
        try:
            out, trouble = self.process.communicate(timeout=RUN_WITHIN_S)
        finally:
            self.process.kill()
        rate = re.search(r"throughput summary: ([\d.]+) requests", out)
        summary = re.search(r"avg\s+min\s+p50\s+p95\s+p99\s+max\n\s*([\d. ]+)", out)
        if self.process.returncode != 0 or not rate or not summary or "rror" in trouble + out:
            wrong = [line for line in (trouble + out).splitlines() if "rror" in line]
            said = wrong[0] if wrong else (trouble or out).strip()[-300:]
            raise Trouble(f"{' '.join(self.command)}: {said}")
        shares = [(float(share), float(ms)) for share, ms in re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds", out)]
        _, _, p50, _, p99, _ = map(float, summary[1].split())
        return Figures(float(rate[1]), p50, p99, min(ms for share, ms in shares if share >= 99.9))


def cpu(pids):
    return sum(cpu_seconds(pid) for pid in pids)


def fill(command, keys):
    """To about the same degree everywhere: twice as many random SETs as there are keys leave 86 % of them there."""
    Running(command, 2 * keys).figures()


def alternate(loads, scale, what):
    """Name -> row, of loads that take turns."""
    requests = {load.name: load.requests_for(scale.seconds) for load in loads}
    rounds = {load.name: [] for load in loads}
    for _ in range(scale.rounds):
        for load in loads:
            rounds[load.name].append(load.run(requests[load.name]))
    rows = {name: row_of(each) for name, each in rounds.items()}
    for name, row in rows.items():
        say(f"  {what}, {name}: {told(row)}")
    return rows


def program(name, arguments, pids=()):
    """What a program of examples/ that makes load says about it, with `cpu_us` an operation of these processes."""
    began = cpu(pids)
    command = [str(example(name)), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=RUN_WITHIN_S)
    if ran.returncode != 0:
        raise Trouble(f"{' '.join(command)}: {ran.stderr.strip()}")
    said = json.loads(ran.stdout)
    count = said["count"] if "count" in said else said["get"]["count"] + said["set"]["count"]
    return {**said, "count": count, "rate": count / said["seconds"], "cpu_us": 1e6 * (cpu(pids) - began) / count}


def load(address, pids=(), **options):
    """examples/load.rs. An error reply is trouble: where they are wanted, ask `program`."""
    said = program("load", ["--address", address, *flags(options)], pids)
    if said["errors"]:
        raise Trouble(f"{said['errors']} error replies, the first: {said['first_error']}")
    return said


def flags(options):
    """`name=value` is --name value, and `name=True` --name alone."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value) if word is not True]


class Limit:
    """Programs of examples/limits.rs: the floor with its two followers, or the echo."""

    def __init__(self, name, parent=None):
        self.name, self.processes = name, []
        self.folder = tempfile.TemporaryDirectory(prefix="limits-", dir=parent)
        self.port, *self.followers = [free_port() for _ in range(3 if name == "floor" else 1)]

    def start(self, what, port, *rest):
        self.processes.append(subprocess.Popen([str(example("limits")), what, str(port), *rest]))

    def __enter__(self):
        for number, follower in enumerate(self.followers):
            self.start("follow", follower, f"{self.folder.name}/{number}")
        for follower in self.followers:
            self.wait(follower)
        named = [word for follower in self.followers for word in ("--follower", f"{HOST}:{follower}")]
        self.start(self.name, self.port, *([f"{self.folder.name}/leader", *named] if named else []))
        self.wait(self.port)
        return self

    def wait(self, port):
        """Until something listens there; a connection would be taken for a client."""
        until = time.monotonic() + LIMIT_STARTS_WITHIN_S
        while f":{port:04X} 00000000:0000 0A" not in Path("/proc/net/tcp").read_text():
            if time.monotonic() > until or any(process.poll() is not None for process in self.processes):
                self.__exit__()
                raise Trouble(f"the {self.name} does not start")
            time.sleep(0.02)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        self.folder.cleanup()

    @property
    def pids(self):
        return [process.pid for process in self.processes]


def pids_of(cluster):
    return [node.process.pid for node in cluster.nodes]


def read_at(cluster, level):
    """Has every node read at that level unless a client asks for another."""
    for node in cluster.nodes:
        if cli(node.port("resp"), "CONFIG", "SET", "consistency-level", level).strip() != "OK":
            raise Trouble(f"{node.name} does not take the level {level}")


def leaders(cluster, shape, *what, keys, value_bytes=VALUE_BYTES):
    """redis-benchmark as a cluster client, which asks leaders. It gives the keys of each node the tag of one slot: so many keys a node. It
    takes one node for no cluster."""
    node, share = cluster.nodes[0], max(1, keys // len(cluster.nodes))
    several = len(cluster.nodes) > 1
    at = node.port("cluster" if several else "resp")
    return redis_benchmark(at, shape, *what, cluster=several, value_bytes=value_bytes, keys=share)


def have_lead(cluster, node):
    """Has a node lead all data groups."""
    led = lambda: {leader for group, leader in cluster.leaders().items() if group != META}  # noqa: E731
    said = "" if led() == {node} else cli(node.port("cluster"), "CLUSTER", "FAILOVER").strip()
    until = time.monotonic() + LED_WITHIN_S
    while led() != {node}:
        if time.monotonic() > until:
            raise Trouble(f"{node.name} does not lead everything: {said}")
        time.sleep(0.05)


def lead_again(cluster, meant):
    """On a machine with much else to do groups elect other leaders than those that were meant: has these lead again."""
    now = cluster.leaders()
    moved = {group: node for group, node in meant.items() if now.get(group) is not node}
    ctl = str(cluster.program.with_name("hypercachectl"))
    for group, node in moved.items():
        command = [ctl, "--endpoint", node.address("grpc"), "leader", "transfer", "--group", str(group), "--to", node.name]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode != 0:
            raise Trouble(f"{' '.join(command)}: {ran.stderr.strip()}")
    if moved:
        say(f"  {len(moved)} groups had elected other leaders; those that were meant lead again")


def resident(cluster):
    return [resident_mb(node.process.pid) for node in cluster.nodes]


def allow_files(count):
    """Lets this program and what it starts have so many files open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise Trouble(f"only {hard} open files are allowed (ulimit -Hn), {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
