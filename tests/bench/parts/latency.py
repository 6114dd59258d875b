"""Latency at half of the highest throughput: an open loop (`examples/load.rs`) in which each request counts from the moment it was due, so that a
server which stops is charged with all that it kept waiting. The requests of a pipeline are due together. All groups are led by one node,
which is asked.

The highest throughput of each shape is what the same program reaches in a closed loop, on the same cores: what it uses itself is missing to the
server. *Late* says how long after its time the load sent a request itself; that is in the latencies, too. Medians over the rounds."""

import statistics

from cluster import Cluster
from loads import SHAPES, VALUE_BYTES, have_lead, load, pids_of, read_at, say, shown
from report import Bar, number
from servers import fill, table

TITLE = "Latency at half load"
# A name, the kind of request, the share of GETs, and what p99 may be.
KINDS = [("GET at lease", "get", 100, 1.0), ("durable SET", "set", 0, 5.0)]
FIGURES = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms", "max_ms": "longest, ms", "late_ms": "late, p99 ms", "cpu_us": "CPU us"}


def measure(bench):
    scale, found = bench.scale, []
    with Cluster(3, parent=bench.folder) as cluster:
        node = cluster.nodes[0]
        read_at(cluster, "lease")
        fill(node.port("resp"), scale.keys, VALUE_BYTES)
        for name, kind, gets, bar in KINDS:
            for shape in SHAPES[1:]:
                each = at_half(cluster, node, scale, kind, gets, shape)
                found.append({"name": f"{name}, {shown(shape)}", "kind": name, "bar": bar, **each})
                offered = f"{each['rate']:,} of {each['highest']:,.0f}/s"
                say(f"  {found[-1]['name']}: {offered}, p50 {each['p50_ms']:.2f}, p99 {each['p99_ms']:.2f} ms, late by {each['late_ms']:.2f} ms")
    return found


def at_half(cluster, node, scale, kind, gets, shape):
    have_lead(cluster, node)
    connections, pipeline = shape
    same = {"gets": gets, "keys": scale.keys, "value_bytes": VALUE_BYTES, "connections": connections, "pipeline": pipeline, "seconds": scale.seconds}
    highest = load(node.address("resp"), closed=True, **same)["rate"]
    rate = int(highest / 2)
    rounds = [load(node.address("resp"), pids_of(cluster), rate=rate, **same) for _ in range(scale.rounds)]
    ms = lambda which, what: statistics.median(each[which][what] for each in rounds) / 1000  # noqa: E731
    return {
        "highest": highest,
        "rate": rate,
        **{f"{share}_ms": ms(kind, f"{share}_us") for share in ("p50", "p99", "p999", "max")},
        "late_ms": ms("late", "p99_us"),
        "cpu_us": statistics.median(each["cpu_us"] for each in rounds),
    }


def bars(found):
    return [Bar(f"p99 at half of the highest throughput, {each['name']}", each["p99_ms"], each["bar"], " ms") for each in found]


def tell(found):
    rows = [[each["name"], f"{each['highest']:,.0f}", f"{each['rate']:,}", *(number(each[figure]) for figure in FIGURES)] for each in found]
    return table(["", "highest, a second", "offered, a second", *FIGURES.values()], rows)
