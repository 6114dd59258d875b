"""Clusters of 1, 3, 5 and 9 nodes on this machine, each with 8 groups and at most three copies of a group; a cluster client, 50 x 16. CPU time is
that of all nodes together. What all of them use while nobody asks is told beside it: it is in the figures, too."""

import time

from cluster import Cluster
from loads import FILLING, MIDDLE, Load, alternate, cpu, fill, leaders, pids_of, read_at, say
from report import load_table
from servers import table

TITLE = "Nodes"
COUNTS = [1, 3, 5, 9]
SETTLES_S, WATCHED_S = 2, 5


def measure(bench):
    return [of(bench, count) for count in COUNTS]


def of(bench, count):
    keys = bench.scale.keys // 10
    with Cluster(count, ["cluster.groups=8", "cluster.consistency_level=lease"], parent=bench.folder) as cluster:
        pids = pids_of(cluster)
        time.sleep(SETTLES_S)
        began = cpu(pids)
        time.sleep(WATCHED_S)
        idle = 100 * (cpu(pids) - began) / WATCHED_S
        say(f"  {count} nodes, idle: {idle:.1f} % of a core, all together")
        fill(leaders(cluster, FILLING, "-t", "set", keys=keys), keys)
        asked = [Load(test.upper(), pids, leaders(cluster, MIDDLE, "-t", test, keys=keys)) for test in ("set", "get")]
        return {"nodes": count, "idle": idle, "rows": alternate(asked, bench.scale, f"{count} nodes")}


def bars(_):
    """None were demanded: docs/internals/scaling.md makes something of the figures."""
    return []


def tell(found):
    named = {f"{each['nodes']} node{'s' if each['nodes'] > 1 else ''}": each for each in found}
    groups = {test: {name: each["rows"][test] for name, each in named.items()} for test in ("SET", "GET")}
    idle = [[name, f"{each['idle']:.1f}", f"{each['idle'] / each['nodes']:.1f}"] for name, each in named.items()]
    return f"{load_table(groups)}\n\n{table(['idle', '% of a core, all together', 'a node'], idle)}"
