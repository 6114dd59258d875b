"""Three nodes, 8 groups, `storage.sync: always`, beside Redis alone with appendfsync always, in four shapes; 64-byte values.

*Leaders*: a cluster client, each command sent to its leader; redis-benchmark then uses one slot of each node, so three of the eight
groups. *Any node*: a plain client, all of it sent to one node, keys in all groups; two of three are forwarded. *Forwarded*: a plain
client at a node that leads none of the keys, and *at the leader* the same at the one that leads them all, through the same face.

The *floor* has three processes that append each command to a file, send it on and sync it, with group commit, and keep nothing; the
*echo* is one thread that answers a constant (`examples/limits.rs`). Nothing that promises as much can cost less than they do."""

import functools
from contextlib import ExitStack
from dataclasses import dataclass

from cluster import Cluster, Node, Trouble, tag_in
from loads import FILLING, REDIS_OPTIONS, SHAPES, Limit, Load, alternate, fill, lead_again, leaders, pids_of, read_at, redis_benchmark, say, shown
from report import Bar, load_table, number
from servers import Redis, cli, slots_led, table, verdict

TITLE = "Four shapes"
FLOOR, ECHO, REDIS, VALKEY = "floor", "echo", "Redis", "Valkey"
SET = "leaders"
LEVELS = ["linearizable", "lease"]


def led(level):
    return f"leaders, {level}"


def forwarded(level):
    return f"forwarded, {level}"


def at_leader(level):
    return f"at the leader, {level}"


def measure(bench):
    keys = bench.scale.keys
    with ExitStack() as started:
        redis = started.enter_context(Redis(REDIS_OPTIONS, parent=bench.folder))
        alone = {REDIS: redis}
        if bench.valkey:
            alone[VALKEY] = started.enter_context(Redis(REDIS_OPTIONS, parent=bench.folder, program=bench.valkey))
        limits = [started.enter_context(Limit(name, bench.folder)) for name in (FLOOR, ECHO)]
        cluster = started.enter_context(Cluster(3, parent=bench.folder))
        meant = cluster.leaders()
        node, leader, key = forwarding(cluster)
        say(f"  filling with {keys:,} keys")
        fill(leaders(cluster, FILLING, "-t", "set", keys=keys), keys)
        fill(redis_benchmark(node.port("resp"), FILLING, "-t", "set", keys=keys), keys)
        fill(redis_benchmark(leader.port("resp"), FILLING, keys=keys, *["SET", key, "x" * 64]), keys)
        for server in alone.values():
            fill(redis_benchmark(server.port, FILLING, "-t", "set", keys=keys), keys)
        serving = Serving(cluster, meant, node, leader, key)
        return {
            test: {shown(shape): alternate(asked(shape, alone, limit, serving, keys), bench.scale, f"{test} {shown(shape)}") for shape in SHAPES}
            for test, asked, limit in (("SET", sets, limits[0]), ("GET", gets, limits[1]))
        }


@dataclass
class Serving:
    """Three nodes, who leads what there, and keys that one of them leads and another forwards."""

    cluster: Cluster
    meant: dict
    node: Node
    leader: Node
    key: str

    def at(self, level):
        """Has all nodes read at that level, and the leaders lead that were meant to: what is called forwarded is."""
        read_at(self.cluster, level)
        lead_again(self.cluster, self.meant)
        if "MOVED" in cli(self.leader.port("cluster"), "GET", self.key):
            raise Trouble(f"{self.leader.name} does not lead the keys that are meant to be forwarded")


def forwarding(cluster):
    """A node, another that leads, and keys that it leads."""
    node = cluster.nodes[0]
    leader, slots = next((leader, slots) for leader, slots in slots_led(cluster, node).items() if leader is not node)
    return node, leader, f"fwd:{{{tag_in(slots[0])}}}:__rand_int__"


def beside(shape, alone, limit, test, keys):
    """Redis, what takes its place, and the limit."""
    for name, server in alone.items():
        yield Load(name, [server.pid], redis_benchmark(server.port, shape, "-t", test, keys=keys))
    yield Load(limit.name, limit.pids, redis_benchmark(limit.port, shape, "-t", test, keys=keys))


def sets(shape, alone, floor, serving, keys):
    cluster, before = serving.cluster, lambda: serving.at(LEVELS[0])
    any_node = redis_benchmark(serving.node.port("resp"), shape, "-t", "set", keys=keys)
    return [
        *beside(shape, alone, floor, "set", keys),
        Load(SET, pids_of(cluster), leaders(cluster, shape, "-t", "set", keys=keys), before=before),
        Load("any node", pids_of(cluster), any_node, before=before),
    ]


def gets(shape, alone, echo, serving, keys):
    pids = pids_of(serving.cluster)
    at = lambda node: redis_benchmark(node.port("resp"), shape, "GET", serving.key, keys=keys)  # noqa: E731
    found = list(beside(shape, alone, echo, "get", keys))
    for level in LEVELS:
        before = functools.partial(serving.at, level)
        found.append(Load(led(level), pids, leaders(serving.cluster, shape, "-t", "get", keys=keys), before=before))
        found.append(Load(at_leader(level), pids, at(serving.leader), before=before))
        found.append(Load(forwarded(level), pids, at(serving.node), before=before))
    return found


# What is demanded in each shape, of which figure: a row of the loads on a test, that which it is compared with, and the ratio's bar; and what
# others are known to need.
DEMANDS = [
    ("durable SET, CPU to the floor", "SET", SET, FLOOR, "cpu_us", (1.5, 1.6, 2.5, 4)),
    ("GET at lease, CPU to Redis", "GET", led("lease"), REDIS, "cpu_us", (1.0, 0.98, 0.60, 0.50)),
    ("GET linearizable, CPU to Redis", "GET", led("linearizable"), REDIS, "cpu_us", (4, 1.5, 0.9, 0.7)),
    ("GET forwarded, linearizable, CPU to the same at its leader", "GET", forwarded("linearizable"), at_leader("linearizable"), "cpu_us", (3, 2.5, 2.5, 2.5)),
    ("GET forwarded, lease, CPU to the same at its leader", "GET", forwarded("lease"), at_leader("lease"), "cpu_us", (3, 2.5, 2.5, 2.5)),
    ("durable SET, throughput to Redis", "SET", SET, REDIS, "rate", (0.6, 0.65, 0.8, 1.2)),
]
KNOWN = {
    0: [("RedisRaft", (1.9, 2.7, 26, 64)), ("etcd 3.5", (5, 14, 75, 300)), ("Redis alone", (0.43, 0.74, 1.8, 5.5))],
    1: [("Valkey 9.1 alone", (1.03, 0.98, 0.61, 0.51)), ("the echo", (0.75, 0.74, 0.25, 0.12))],
    2: [("RedisRaft", (4.7, 2.0, 7.1, 6.8))],
    5: [("RedisRaft", (0.45, 0.44, 0.10, 0.10))],
}


def ratio(found, demand, shape):
    _, test, mine, other, figure, _ = demand
    rows = found[test][shown(shape)]
    return rows[mine][figure] / rows[other][figure]


def demands(found):
    """The table that everything is about: ratios, with bar and verdict in each cell, and what others are known to need below."""
    rows = []
    for nth, demand in enumerate(DEMANDS):
        what, *_, figure, limits = demand
        cells = []
        for shape, limit in zip(SHAPES, limits):
            bar = Bar(what, ratio(found, demand, shape), limit, at_least=figure == "rate")
            _, wanted, measured, _ = bar.cells()
            cells.append(f"{measured} ({wanted}) {verdict(bar.reached)}")
        rows.append([what, *cells])
        rows += [[f"*known: {name}*", *(f"*{number(value)}*" for value in values)] for name, values in KNOWN.get(nth, [])]
    return table(["", *map(shown, SHAPES)], rows)


def bars(_):
    """They are a table of their own."""
    return []


def tell(found):
    return "\n\n".join(f"### {test}\n\n{load_table(groups)}" for test, groups in found.items())
