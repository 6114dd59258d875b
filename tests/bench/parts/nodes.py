"""Clusters of 1, 3, 5 and 9 nodes on this machine, each with 8 groups and at most three copies of a group; a cluster client, 50 x 16. CPU time is
that of all nodes together. What all of them use while nobody asks is told beside it: it is in the figures, too."""

import time

from cluster import Cluster
from loads import FILLING, MIDDLE, Load, alternate, cpu, fill, leaders, pids_of, read_at, say
from report import HEAD, load_cells
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
    rows = []
    for test in ("SET", "GET"):
        for each in found:
            nodes = f"{each['nodes']} node{'s' if each['nodes'] > 1 else ''}"
            rows.append([f"{test}, {nodes}", *load_cells(each["rows"][test]), f"{each['idle']:.1f}"])
    return table([*HEAD, "idle, % of a core"], rows)
