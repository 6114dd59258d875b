"""Latency at half of the highest throughput: an open loop of 50 connections (`examples/load.rs`), each request counted from the moment
it was due, so that a server which stops is charged with all that it kept waiting. All groups are led by one node, which is asked.

The highest throughput is what the same program reaches in a closed loop, on the same cores: what it uses itself is missing to the
server. *Late* says how long after its time the load sent a request itself; that is in the latencies, too. Medians over the rounds."""

import statistics

from cluster import Cluster
from loads import MIDDLE, SHAPES, VALUE_BYTES, have_lead, load, pids_of, read_at, say, shown
from report import Bar, number
from servers import fill, table

TITLE = "Latency at half load"
HIGH_SHAPES = [MIDDLE, SHAPES[-1]]
LONG = 2
KINDS = {"GET at lease": ("get", 100, 1.0), "durable SET": ("set", 0, 5.0)}
SHARES = {"p50_ms": "p50_us", "p99_ms": "p99_us", "p999_ms": "p999_us", "max_ms": "max_us"}


def measure(bench):
    scale = bench.scale
    with Cluster(3, parent=bench.folder) as cluster:
        node = cluster.nodes[0]
        have_lead(cluster, node)
        read_at(cluster, "lease")
        fill(node.port("resp"), scale.keys, VALUE_BYTES)
        address, pids, found = node.address("resp"), pids_of(cluster), {}
        for name, (kind, share, _) in KINDS.items():
            same = {"gets": share, "keys": scale.keys, "value_bytes": VALUE_BYTES}
            highest = {}
            for connections, pipeline in HIGH_SHAPES:
                said = load(address, connections=connections, pipeline=pipeline, seconds=scale.seconds, **same)
                highest[shown((connections, pipeline))] = said["rate"]
            shape = max(highest, key=highest.get)
            rate = int(highest[shape] / 2)
            rounds = [load(address, pids, connections=50, rate=rate, seconds=LONG * scale.seconds, **same) for _ in range(scale.rounds)]
            median = lambda which, what: statistics.median(each[which][what] for each in rounds) / 1000  # noqa: E731, B023
            found[name] = {"highest": highest[shape], "shape": shape, "rate": rate, "late_p99_ms": median("late", "p99_us")}
            found[name] |= {ms: median(kind, us) for ms, us in SHARES.items()}
            found[name]["cpu_us"] = statistics.median(each["cpu_us"] for each in rounds)
            say(f"  {name}: {highest[shape]:,.0f}/s at {shape}; at half p50 {found[name]['p50_ms']:.2f}, p99 {found[name]['p99_ms']:.2f} ms, late by {found[name]['late_p99_ms']:.2f} ms")
        return found


def bars(found):
    return [Bar(f"p99 of {name} at half of the highest throughput", found[name]["p99_ms"], limit, " ms") for name, (*_, limit) in KINDS.items()]


def tell(found):
    rows = []
    for name, each in found.items():
        figures = [number(each[ms]) for ms in ("p50_ms", "p99_ms", "p999_ms", "max_ms", "late_p99_ms", "cpu_us")]
        rows.append([name, f"{each['highest']:,.0f} ({each['shape']})", f"{each['rate']:,}", *figures])
    return table(["", "highest, a second", "offered, a second", "p50 ms", "p99 ms", "p99.9 ms", "longest, ms", "late, p99 ms", "CPU us"], rows)
