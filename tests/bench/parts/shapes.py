"""Three nodes, 8 groups, `storage.sync: always`, beside Redis alone with appendfsync always, in four shapes; 64-byte values.

*Leaders*: a cluster client, each command sent to its leader; redis-benchmark then uses one slot of each node, so three of the eight
groups. *Any node*: a plain client, all of it sent to one node, keys in all groups; two of three are forwarded. *Forwarded*: a plain
client at a node that leads none of the keys, and *at the leader* the same at the one that leads them all, through the same face.

The *floor* has three processes that append each command to a file, send it on and sync it, with group commit, and keep nothing; the
*echo* is one thread that answers a constant (`examples/limits.rs`). Nothing that promises as much can cost less than they do."""

import functools
from contextlib import ExitStack

from cluster import Cluster, Trouble, tag_in
from loads import FILLING, REDIS_OPTIONS, SHAPES, Limit, Load, alternate, fill, leaders, pids_of, read_at, redis_benchmark, say, shown
from report import Bar, load_table, number
from servers import Redis, cli, slots_led, table, verdict

TITLE = "Four shapes"
FLOOR, ECHO, REDIS, VALKEY = "floor", "echo", "Redis", "Valkey"
SET = "leaders"
LINEARIZABLE, LEASE = "leaders, linearizable", "leaders, lease"


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
        node, leader, key = forwarding(cluster)
        say(f"  filling with {keys:,} keys")
        fill(leaders(cluster, FILLING, "-t", "set", keys=keys), keys)
        fill(redis_benchmark(node.port("resp"), FILLING, "-t", "set", keys=keys), keys)
        fill(redis_benchmark(leader.port("resp"), FILLING, keys=keys, *["SET", key, "x" * 64]), keys)
        for server in alone.values():
            fill(redis_benchmark(server.port, FILLING, "-t", "set", keys=keys), keys)
        return {
            "SET": {shown(shape): alternate(sets(shape, alone, limits[0], cluster, keys), bench.scale, f"SET {shown(shape)}") for shape in SHAPES},
            "GET": {shown(shape): alternate(gets(shape, alone, limits[1], cluster, keys, (node, leader, key)), bench.scale, f"GET {shown(shape)}") for shape in SHAPES},
        }


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


def sets(shape, alone, floor, cluster, keys):
    pids = pids_of(cluster)
    any_node = redis_benchmark(cluster.nodes[0].port("resp"), shape, "-t", "set", keys=keys)
    return [
        *beside(shape, alone, floor, "set", keys),
        Load(SET, pids, leaders(cluster, shape, "-t", "set", keys=keys)),
        Load("any node", pids, any_node),
    ]


def gets(shape, alone, echo, cluster, keys, forwarding):
    pids, (node, leader, key) = pids_of(cluster), forwarding
    found = list(beside(shape, alone, echo, "get", keys))
    for level, name in (("linearizable", LINEARIZABLE), ("lease", LEASE)):
        before = functools.partial(prepare, cluster, level, leader, key)
        get = lambda at: redis_benchmark(at.port("resp"), shape, "GET", key, keys=keys)  # noqa: E731
        found.append(Load(name, pids, leaders(cluster, shape, "-t", "get", keys=keys), before=before))
        found.append(Load(at_leader(level), pids, get(leader), before=before))
        found.append(Load(forwarded(level), pids, get(node), before=before))
    return found


def prepare(cluster, level, leader, key):
    """On a machine with much else to do a group may have elected another leader; then what is called forwarded would not be."""
    read_at(cluster, level)
    if not leads(leader, key):
        raise Trouble(f"{leader.name} does not lead the keys any more that are meant to be forwarded: the machine was too busy")


def leads(node, key):
    """A leader's cluster face answers; another's says who does."""
    return "MOVED" not in cli(node.port("cluster"), "GET", key)


# What is demanded in each shape, of which figure: a row of the loads on a test, that which it is compared with, and the ratio's bar; and what
# others are known to need.
DEMANDS = [
    ("durable SET, CPU to the floor", "SET", SET, FLOOR, "cpu_us", (1.5, 1.6, 2.5, 4)),
    ("GET at lease, CPU to Redis", "GET", LEASE, REDIS, "cpu_us", (1.0, 0.98, 0.60, 0.50)),
    ("GET linearizable, CPU to Redis", "GET", LINEARIZABLE, REDIS, "cpu_us", (4, 1.5, 0.9, 0.7)),
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
