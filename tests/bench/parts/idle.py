"""What is paid for nothing: fresh nodes that serve nobody, and connections that say nothing. The connections are all at one node; throughput
is that of GETs at `lease`, 50 x 16 at the leaders, with them and without them by turns."""

import socket
import time

from cluster import HOST, Cluster, Trouble, cpu_seconds, resident_mb
from loads import FILLING, MIDDLE, Load, allow_files, fill, leaders, pids_of, read_at, resident, row_of, say, told
from report import Bar, load_table, number
from servers import cli, table

TITLE = "Idle"
SETTLES_S, WATCHED_S = 3, 10
OTHER_FILES = 1000
WITHOUT, WITH = "without them", "with them"


class Silent:
    """So many connections to a port that say nothing. The server knows them all when this begins, and none of them when it ends."""

    def __init__(self, node, count):
        self.node, self.count, self.open = node, count, []

    def __enter__(self):
        self.others = self.known()
        for _ in range(self.count):
            self.open.append(socket.create_connection((HOST, self.node.port("resp")), 10))
        self.wait(self.count)
        return self

    def __exit__(self, *_):
        for connection in self.open:
            connection.close()
        self.wait(0)

    def known(self):
        told = cli(self.node.port("resp"), "INFO", "clients")
        return int(next(line.split(":")[1] for line in told.splitlines() if line.startswith("connected_clients:")))

    def wait(self, count):
        until = time.monotonic() + 30
        while self.known() - self.others != count:
            if time.monotonic() > until:
                raise Trouble(f"{self.node.name} has {self.known()} clients, {count} more than {self.others} are meant")
            time.sleep(0.05)


def measure(bench):
    count = bench.scale.idle_connections
    allow_files(count + OTHER_FILES)
    with Cluster(3, [f"limits.max_clients={count + OTHER_FILES}"], parent=bench.folder) as cluster:
        return {"nodes": nodes(cluster), **connections(cluster, count, bench.scale)}


def nodes(cluster):
    time.sleep(SETTLES_S)
    before = [cpu_seconds(pid) for pid in pids_of(cluster)]
    time.sleep(WATCHED_S)
    found = [
        {"mb": resident_mb(pid), "share": 100 * (cpu_seconds(pid) - old) / WATCHED_S} for pid, old in zip(pids_of(cluster), before)
    ]
    say("  idle nodes: " + ", ".join(f"{each['mb']:.1f} MB, {each['share']:.1f} % of a core" for each in found))
    return found


def connections(cluster, count, scale):
    node, keys = cluster.nodes[0], scale.keys // 10
    read_at(cluster, "lease")
    fill(leaders(cluster, FILLING, "-t", "set", keys=keys), keys)
    get = Load("GET", pids_of(cluster), leaders(cluster, MIDDLE, "-t", "get", keys=keys))
    requests, grown = get.requests_for(scale.seconds), []
    rounds = {WITHOUT: [], WITH: []}
    for _ in range(scale.rounds):
        rounds[WITHOUT].append(get.run(requests))
        before = resident(cluster)[0]
        with Silent(node, count):
            grown.append(resident(cluster)[0] - before)
            rounds[WITH].append(get.run(requests))
    rows = {name: row_of(each) for name, each in rounds.items()}
    for name, row in rows.items():
        say(f"  {count:,} idle connections, GET {name}: {told(row)}")
    # The first time: later ones find what an earlier one left.
    say(f"  {count:,} idle connections: {', '.join(f'{mb:.1f}' for mb in grown)} MB more, one time after the other")
    return {"connections": count, "grown_mb": grown[0], "rows": rows, "lost": 1 - rows[WITH]["rate"] / rows[WITHOUT]["rate"]}


def bars(found):
    many = f"{found['connections']:,} idle connections"
    return [
        Bar("resident size of an idle node", max(each["mb"] for each in found["nodes"]), 50, " MB"),
        Bar("CPU of an idle node, share of a core", max(each["share"] for each in found["nodes"]), 5, " %"),
        Bar(f"{many}, memory", found["grown_mb"], 100, " MB"),
        Bar(f"{many}, throughput lost", 100 * found["lost"], 5, " %"),
    ]


def tell(found):
    rows = [[str(n), number(each["mb"]), f"{each['share']:.1f}"] for n, each in enumerate(found["nodes"], 1)]
    idle = table(["node", "resident MB", "% of a core"], rows)
    return f"{idle}\n\nGET with {found['connections']:,} idle connections, and without:\n\n{load_table({'GET': found['rows']})}"
