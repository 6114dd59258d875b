"""Reads spread over the nodes, and mixes. GET at `eventual` is answered by each node from its own replica: three redis-benchmarks ask the
three nodes, and for comparison all three ask one leader at `lease` (200 connections x 64 in all). All nodes and the load share this machine's cores, so
spreading gains only what one node's threads could not use; the CPU time of an operation says what it would be on machines of their own.

A mix of 80 % GET (at lease) and 20 % SET over Zipf keys (0.99), a closed loop of `examples/load.rs` at the node that leads everything, beside GETs
alone and SETs alone: the weighted mean is what a mix must reach that takes 0.8 of the time of a GET and 0.2 of that of a SET."""

import os
import statistics

from cluster import Cluster
from loads import MIDDLE, SHAPES, VALUE_BYTES, Load, alternate, have_lead, load, pids_of, read_at, redis_benchmark, say
from report import Bar, load_table, number
from servers import fill, table

TITLE = "Spread and mixed"
SPREAD, LEADER = "eventual, over three nodes", "lease, one leader"
GETS = {"GET alone": 100, "SET alone": 0, "80 % GET": 80}
ZIPF = 0.99


def measure(bench):
    scale = bench.scale
    with Cluster(3, parent=bench.folder) as cluster:
        leader = cluster.nodes[0]
        have_lead(cluster, leader)
        fill(leader.port("resp"), scale.keys, VALUE_BYTES)
        return {"spread": spread(cluster, leader, scale), "mixes": mixes(cluster, leader, scale), "cores": os.cpu_count()}


def spread(cluster, leader, scale):
    connections, pipeline = SHAPES[-1]
    shape = (connections // len(cluster.nodes), pipeline)
    asking = lambda nodes: [redis_benchmark(at.port("resp"), shape, "-t", "get", keys=scale.keys) for at in nodes]  # noqa: E731
    pids = pids_of(cluster)
    return alternate(
        [
            Load(LEADER, pids, *asking([leader] * 3), before=lambda: lead_and_read(cluster, leader, "lease")),
            Load(SPREAD, pids, *asking(cluster.nodes), before=lambda: lead_and_read(cluster, leader, "eventual")),
        ],
        scale,
        "GET",
    )


def lead_and_read(cluster, leader, level):
    have_lead(cluster, leader)
    read_at(cluster, level)


def mixes(cluster, leader, scale):
    connections, pipeline = MIDDLE
    rounds = {name: [] for name in GETS}
    for _ in range(scale.rounds):
        for name, share in GETS.items():
            lead_and_read(cluster, leader, "lease")
            shape = {"closed": True, "connections": connections, "pipeline": pipeline, "seconds": scale.seconds}
            said = load(leader.address("resp"), pids_of(cluster), gets=share, zipf=ZIPF, keys=scale.keys, value_bytes=VALUE_BYTES, **shape)
            rounds[name].append(said)
    found = {name: {what: statistics.median(each[what] for each in said) for what in ("rate", "cpu_us")} for name, said in rounds.items()}
    for name, each in found.items():
        say(f"  {name}: {each['rate']:,.0f}/s, {each['cpu_us']:.2f} us CPU")
    return found


def mean(mixes):
    return 1 / (0.8 / mixes["GET alone"]["rate"] + 0.2 / mixes["SET alone"]["rate"])


def bars(found):
    gain = found["spread"][SPREAD]["rate"] / found["spread"][LEADER]["rate"]
    mixed = found["mixes"]["80 % GET"]["rate"] / mean(found["mixes"])
    return [
        Bar("GET at eventual over three nodes, throughput to one leader's at lease", gain, 1.5, at_least=True),
        Bar("80 % GET and 20 % SET, Zipf keys, throughput to the weighted mean", mixed, 1.0, at_least=True),
    ]


def tell(found):
    each = found["spread"][SPREAD]["cpu_us"]
    mixed = [[name, f"{row['rate']:,.0f}", number(row["cpu_us"])] for name, row in found["mixes"].items()]
    return f"""{load_table({"GET": found["spread"]})}

A core can answer {1e6 / each:,.0f} `eventual` GETs a second by their CPU time, so {found['cores']} cores without a load beside them {found['cores'] * 1e6 / each:,.0f}.

{table(["50 x 16, Zipf keys", "a second", "CPU us"], mixed)}

The weighted mean is {mean(found["mixes"]):,.0f} a second."""
