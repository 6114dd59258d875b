"""What an operation costs in a keyspace of another size, and with another number of groups.

Instructions are those of the pieces whose work could grow (`examples/instructions.rs`, counted by callgrind). CPU time is that of three
nodes, one of which leads everything and is asked by a plain client, 50 x 16. Groups are compared with equally many commands
waiting in each: 8 with 50 connections x 16, 32 with 200."""

import functools

import instructions
from cluster import Cluster
from loads import MIDDLE, VALUE_BYTES, Load, alternate, have_lead, pids_of, read_at, redis_benchmark, say
from report import Bar, load_table, number
from servers import fill, table

TITLE = "Size"
FEW = 1000
PIECES = ["lookup", "read_hit", "apply_set"]
GROUPS = {8: MIDDLE, 32: (4 * MIDDLE[0], MIDDLE[1])}


def measure(bench):
    return {"many": bench.scale.many_keys, "instructions": counts(bench), "keys": keys(bench), "groups": groups(bench)}


def counts(bench):
    found = {}
    for size in (FEW, bench.scale.many_keys):
        counted = instructions.count(size)
        found[size] = {piece: counted[piece] for piece in PIECES}
        say(f"  instructions at {size:,} keys: {', '.join(f'{piece} {count:.0f}' for piece, count in found[size].items())}")
    return [{"piece": piece, "few": found[FEW][piece], "many": found[bench.scale.many_keys][piece]} for piece in PIECES]


def serving(cluster, filled):
    """Its first node leads everything, reads at lease and holds so many keys."""
    node = cluster.nodes[0]
    have_lead(cluster, node)
    read_at(cluster, "lease")
    fill(node.port("resp"), filled, VALUE_BYTES)
    return node


def compared(bench, clusters):
    """Test -> name -> row: of (name, cluster, shape, keys)."""
    found = {}
    for test in ("set", "get"):
        asked = []
        for name, cluster, shape, filled in clusters:
            command = redis_benchmark(cluster.nodes[0].port("resp"), shape, "-t", test, keys=filled)
            before = functools.partial(have_lead, cluster, cluster.nodes[0])
            asked.append(Load(name, pids_of(cluster), command, before=before))
        found[test.upper()] = alternate(asked, bench.scale, test.upper())
    return found


def keys(bench):
    many = bench.scale.many_keys
    with Cluster(3, parent=bench.folder) as few, Cluster(3, parent=bench.folder) as much:
        say(f"  filling with {many:,} keys")
        serving(few, FEW)
        serving(much, many)
        return compared(bench, [(f"{FEW:,} keys", few, MIDDLE, FEW), (f"{many:,} keys", much, MIDDLE, many)])


def groups(bench):
    filled = bench.scale.keys // 10
    with Cluster(3, ["cluster.groups=8"], parent=bench.folder) as few, Cluster(3, ["cluster.groups=32"], parent=bench.folder) as many:
        for cluster in (few, many):
            serving(cluster, filled)
        return compared(bench, [(f"{count} groups", cluster, GROUPS[count], filled) for count, cluster in ((8, few), (32, many))])


def growth(rows):
    """Of the CPU time, from the first row to the last, in percent."""
    few, many = rows.values()
    return 100 * (many["cpu_us"] / few["cpu_us"] - 1)


def bars(found):
    counted = max(100 * (each["many"] / each["few"] - 1) for each in found["instructions"])
    return [
        Bar(f"instructions, {FEW:,} to {found['many']:,} keys, the most that a piece grows", counted, 10, " %"),
        *(Bar(f"CPU of a {test}, 8 to 32 groups, growth", growth(rows), 25, " %") for test, rows in found["groups"].items()),
    ]


def tell(found):
    pieces = [[each["piece"], number(each["few"]), number(each["many"]), f"{100 * (each['many'] / each['few'] - 1):+.1f} %"] for each in found["instructions"]]
    head = ["instructions of", f"{FEW:,} keys", f"{found['many']:,} keys", "growth"]
    pages = [table(head, pieces)]
    for what in ("keys", "groups"):
        pages.append(load_table(found[what]))
        pages.append("CPU time grows by " + " and ".join(f"{growth(rows):+.0f} % ({test})" for test, rows in found[what].items()) + ".")
    return "\n\n".join(pages)
