"""What nodes, groups and idle clients cost at rest, measured on small clusters; a model of it made of the program's own constants, held
against every measured point, and carried on to clusters that no one machine can run. Prints all of it; with --write it goes
into docs/internals/scaling.md, between its two marks. It judges nothing: a cluster that does not come up in time is a result.

Bytes between nodes are those of the kernel's sockets, both directions of every link. At rest two kinds of request are under way, heartbeats
and pings, of known sizes and with answers of known sizes: so the bytes of the two directions say how many there were of each.
"""

import argparse
import datetime
import functools
import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, HOST, SLOTS, Cluster, Trouble, end_on_sigterm, resident_mb  # noqa: E402
from servers import processor, table  # noqa: E402

DOCUMENT = CHECKOUT / "docs" / "internals" / "scaling.md"
MARKS = ("<!-- begin: written by scripts/scaling --write -->", "<!-- end -->")

# Nodes, groups and workers a node of each measured cluster. The last ones of three nodes are tried until one does not come up.
CLUSTERS = [(1, 8, 1), (1, 128, 1), (1, 1000, 1), (3, 8, 1), (3, 8, 32), (3, 32, 1), (3, 128, 1), (5, 8, 1), (5, 64, 1), (9, 8, 1)]
GROWING = [(3, 256, 1), (3, 512, 1), (3, 1000, 1)]
QUICK = [(1, 8, 1), (1, 128, 1), (3, 8, 1), (3, 8, 32), (3, 32, 1), (3, 128, 1), (5, 8, 1)]
# All timers of Raft four times as long, to see what hangs on them; and the clusters to see it at.
SLOW = ["raft.heartbeat_interval_ms=400", "raft.election_timeout_min_ms=1200", "raft.election_timeout_max_ms=2400"]
SLOW_AT = [(3, 128, 1), (3, 1000, 1)]
CLIENTS = [0, 1_000, 10_000]
# Larger clusters are foretold by the smaller ones alone: whether that holds is what they are measured for.
FITTED_TO_GROUPS = 128
# Where the model is carried on to, with workers enough for such nodes.
BEYOND = [(3, 1000), (9, 128), (30, 128), (100, 8), (100, 128), (100, 1000)]
WORKERS_BEYOND = 8
# Past the first deal of memory, and the last election.
SETTLES_S = 8
READY_WITHIN_S = 60
FAILOVER_WITHIN_S = 60
# Of what stands in the headers of frames: magic, opcode and length (HEAD_BYTES), request id, method, group.
REQUEST_BYTES = 9 + 8 + 1 + 4
ANSWER_BYTES = 9 + 8 + 1
# src/raft/wire.rs, put_append without entries: vote, two log ids, time, count. Its answer is one byte.
HEARTBEAT = (REQUEST_BYTES + 17 + 17 + 17 + 24 + 4, ANSWER_BYTES + 1)
# Nothing, and a wall clock.
PING = (REQUEST_BYTES, ANSWER_BYTES + 8)


def constant(file, name):
    """A constant of the program, read from its source: a duration in milliseconds, or a number."""
    text = (CHECKOUT / file).read_text()
    found = re.search(rf"const {name}: \w+ = (?:Duration::from_(millis|secs)\()?([\d_]+)( << \d+)?\)?;", text)
    if not found:
        raise Trouble(f"{file} has no constant {name} of a form that is known")
    unit, number, shift = found.groups()
    value = int(number.replace("_", "")) << int((shift or " << 0").split()[1])
    return value * 1000 if unit == "secs" else value


def setting(name):
    """The default of a setting, read from the source."""
    text = (CHECKOUT / "src/config/keys.rs").read_text()
    return int(re.search(rf'\b{name}: \w+ = "(\d+)"', text)[1])


class Constants:
    """What the model is made of."""

    def __init__(self):
        self.heartbeat_ms = setting("heartbeat_interval_ms")
        # openraft's core looks at its timers so often (`tick_interval` in its config.rs), and so heartbeats leave only then.
        self.tick_ms = self.heartbeat_ms * 13 // 64
        self.care_ms = constant("src/raft/group/care.rs", "CARE")
        self.ping_ms = constant("src/raft/peers.rs", "PING")
        self.read_bytes = constant("src/raft/peers.rs", "READ_BYTES")
        self.arcs_per_group = constant("src/routing/mod.rs", "ARCS_PER_GROUP")
        self.least_arcs = constant("src/routing/mod.rs", "LEAST_ARCS")
        self.mover_ms = constant("src/cluster/mover.rs", "LOOK")
        self.keeper_ms = constant("src/cluster/keeper.rs", "LOOK")
        self.driver_ms = constant("src/cluster/driver.rs", "LOOK")
        self.slots_at_once = constant("src/cluster/moves.rs", "SLOTS_AT_ONCE")

    def lanes(self, workers):
        """Connections to a peer, one direction: Raft and Forward for each worker, and Messages (src/cluster/mod.rs, `link`)."""
        return 2 * workers + 1

    def heartbeats(self, nodes, groups):
        """A second, in the whole cluster: every group's leader to every other node, for each holds a copy; the meta group too. The
        tick at which one is due comes a little too early as often as a little late, and then it leaves with the next."""
        interval = (self.heartbeat_ms // self.tick_ms + 0.5) * self.tick_ms
        return (groups + 1) * (nodes - 1) * 1000 / interval

    def pings(self, nodes, workers):
        """A second, in the whole cluster: on every link."""
        return nodes * (nodes - 1) * self.lanes(workers) * 1000 / self.ping_ms

    def bytes_between(self, nodes, groups, workers):
        """A second, in the whole cluster, without TCP's and IP's own."""
        return self.heartbeats(nodes, groups) * sum(HEARTBEAT) + self.pings(nodes, workers) * sum(PING)

    def wakings(self, groups):
        """A second and node: of the timers of its groups."""
        return (groups + 1) * (1000 / self.tick_ms + 1000 / self.care_ms)

    def sockets(self, nodes, workers):
        """Of a node, for links of both directions."""
        return 2 * (nodes - 1) * self.lanes(workers)

    def table_bytes(self, nodes, groups):
        """Of the `table` document, about: ranges with three numbers, voters and a seed for each group."""
        arcs = min(max(2 ** math.ceil(math.log2(groups * self.arcs_per_group)), self.least_arcs), SLOTS)
        ranges = 1 + (arcs - 1) * (1 - 1 / groups)
        digits = math.log10(groups) + 1
        return round(ranges * (14 + digits) + groups * (26 + digits + 3 * math.log10(max(nodes, 2)) + 24 + digits))


@functools.cache
def constants():
    return Constants()


class Sockets:
    """Bytes and segments on the links of a cluster since they were made, by the direction of requests."""

    def __init__(self, cluster):
        ports = {node.port("peer") for node in cluster.nodes}
        told = subprocess.run(["ss", "-tinHO", "state", "established"], capture_output=True, text=True, check=True).stdout
        self.asked = self.answered = self.segments = self.number = 0
        for line in told.splitlines():
            found = re.match(r"\s*\d+\s+\d+\s+\S*:(\d+)\s+\S*:(\d+)\s", line)
            here, there = map(int, found.groups()) if found else (0, 0)
            if here not in ports and there not in ports:
                continue
            count = lambda name: int((re.search(rf"\b{name}:(\d+)", line) or [0, 0])[1])  # noqa: E731, B023
            sent = count("bytes_sent")
            self.number += 1
            self.segments += count("data_segs_out")
            if here in ports:
                self.answered += sent
            else:
                self.asked += sent


def thread_seconds(pid):
    """CPU time by kind of thread."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, used = (task / "comm").read_text().strip(), int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # It ended.
        kind = "workers" if name.startswith("worker-") else "main" if task.name == str(pid) else "others"
        found[kind] = found.get(kind, 0) + used / 1e9
    return found


def shares(nodes, seconds):
    """CPU time a second of each node, by kind of thread, over so many seconds."""
    before, began = [thread_seconds(node.process.pid) for node in nodes], time.monotonic()
    time.sleep(seconds)
    after, passed = [thread_seconds(node.process.pid) for node in nodes], time.monotonic() - began
    return [{kind: (now.get(kind, 0) - then.get(kind, 0)) / passed for kind in now} for then, now in zip(before, after)]


class Pauses(threading.Thread):
    """Counts how often this process was stopped: what was measured meanwhile is worth nothing."""

    LONG_S = 1.5

    def __init__(self):
        super().__init__(daemon=True)
        self.count = 0

    def run(self):
        last = time.monotonic()
        while True:
            time.sleep(0.1)
            now = time.monotonic()
            self.count += now - last > self.LONG_S
            last = now

    def undisturbed(self, measure):
        """What `measure` gives, the first time that nothing stopped it."""
        while True:
            before = self.count
            measured = measure()
            # The pause may be over, and not be counted yet.
            time.sleep(0.5)
            if self.count == before:
                return measured
            print("this process was stopped meanwhile: once more", file=sys.stderr)


def mean(numbers):
    return sum(numbers) / len(numbers)


def load():
    return os.getloadavg()[0]


def cluster_of(nodes, groups, workers, settings=()):
    """With so many workers a node, whatever the machine has, so that clusters of all sizes are alike."""
    return Cluster(nodes, [f"cluster.groups={groups}", f"server.workers={workers}", *settings], ready_within=READY_WITHIN_S)


def at_rest(which, seconds, settings=()):
    """A cluster that nobody uses; then one of its nodes dies, and comes back."""
    nodes, _, _ = which
    point, began = {"which": which}, time.monotonic()
    try:
        with cluster_of(*which, settings) as cluster:
            point["ready_s"] = time.monotonic() - began
            time.sleep(SETTLES_S)
            point.update(rest(cluster, seconds))
            if nodes >= 3:
                point.update(failover(cluster))
            return point
    except Trouble as trouble:
        return {"which": which, "trouble": str(trouble).splitlines()[0], "load": load()}


def rest(cluster, seconds):
    before, began = Sockets(cluster), time.monotonic()
    used = shares(cluster.nodes, seconds)
    after, passed = Sockets(cluster), time.monotonic() - began
    asked, answered = (after.asked - before.asked) / passed, (after.answered - before.answered) / passed
    # Two equations for how many there were of each kind.
    determinant = HEARTBEAT[0] * PING[1] - HEARTBEAT[1] * PING[0]
    meta = cluster.nodes.index(cluster.leaders()[0])
    pids = [node.process.pid for node in cluster.nodes]
    return {
        "cpu": mean([sum(share.values()) for share in used]),
        "cpu_main": mean([share.get("main", 0) for share in used]),
        "cpu_main_meta": used[meta].get("main", 0),
        "mb": mean([resident_mb(pid) for pid in pids]),
        "threads": mean([len(os.listdir(f"/proc/{pid}/task")) for pid in pids]),
        "files": mean([len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]),
        "sockets": after.number / len(pids),
        "bytes": asked + answered,
        "heartbeats": (asked * PING[1] - answered * PING[0]) / determinant,
        "pings": (answered * HEARTBEAT[0] - asked * HEARTBEAT[1]) / determinant,
        "segments": (after.segments - before.segments) / passed,
        "load": load(),
    }


def failover(cluster):
    """Kills a node; how long until every group has another leader, and once it is started again until it is ready."""
    victim = next(node for node in cluster.nodes if node is not cluster.leaders()[0])
    led = sum(leader is victim for leader in cluster.leaders().values())
    groups, began = len(cluster.status()["groups"]), time.monotonic()
    victim.kill()
    found = {"led": led, "failover_s": None, "back_s": None}
    while time.monotonic() - began < FAILOVER_WITHIN_S:
        leaders = cluster.leaders()
        if len(leaders) == groups and victim not in leaders.values():
            found["failover_s"] = time.monotonic() - began
            break
    began = time.monotonic()
    victim.start()
    cluster.wait_ready()
    found["back_s"] = time.monotonic() - began
    return found


def idle_clients(numbers, seconds):
    """One node, and clients that said PING once."""
    points = []
    with cluster_of(1, 8, 1) as cluster:
        node, clients = cluster.nodes[0], []
        try:
            for number in numbers:
                while len(clients) < number:
                    client = socket.create_connection((HOST, node.port("resp")), 10)
                    clients.append(client)
                    client.sendall(b"*1\r\n$4\r\nPING\r\n")
                    if client.recv(64) != b"+PONG\r\n":
                        raise Trouble(f"client {len(clients)} is not answered")
                time.sleep(SETTLES_S)
                used = sum(shares([node], seconds)[0].values())
                points.append({"clients": number, "cpu": used, "mb": resident_mb(node.process.pid), "load": load()})
        finally:
            for client in clients:
                client.close()
    return points


def solve(rows, wanted):
    """Least squares: the coefficients with which `rows` give `wanted`, each equation weighed by what it wants. By the normal equations."""
    size = len(rows[0])
    scaled = [([value / want for value in row], 1.0) for row, want in zip(rows, wanted)]
    matrix = [
        [sum(row[i] * row[j] for row, _ in scaled) for j in range(size)] + [sum(row[i] * one for row, one in scaled)]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(matrix[k][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        if abs(matrix[i][i]) < 1e-12:
            raise Trouble("the measured points do not tell the causes of the costs apart")
        for k in range(size):
            if k != i:
                factor = matrix[k][i] / matrix[i][i]
                matrix[k] = [a - factor * b for a, b in zip(matrix[k], matrix[i])]
    return [matrix[i][size] / matrix[i][i] for i in range(size)]


class Fit:
    """A cost of a node as a sum of causes, each with a price that the measured points say."""

    def __init__(self, causes, cost, points):
        self.causes, self.cost = causes, cost
        self.points = [point for point in points if point["which"][1] <= FITTED_TO_GROUPS]
        self.prices = self.prices_by(self.points)

    def prices_by(self, points):
        return solve([self.causes(*p["which"]) for p in points], [p[self.cost] for p in points])

    def of(self, nodes, groups, workers, prices=None):
        return sum(a * b for a, b in zip(prices or self.prices, self.causes(nodes, groups, workers)))

    def unseen(self, point):
        """What the model says of a point from all others alone."""
        others = [other for other in self.points if other is not point]
        return self.of(*point["which"], self.prices_by(others))


def cpu_causes(nodes, groups, workers):
    """Itself; the groups it leads, those it follows, with the heartbeats between them; its links. Groups are spread evenly."""
    led = (groups + 1) / nodes
    return [1, led, groups + 1 - led, constants().sockets(nodes, workers)]


def memory_causes(nodes, groups, workers):
    return [1, groups + 1, constants().sockets(nodes, workers)]


def name(which):
    nodes, groups, workers = which
    return f"{nodes} x {groups:,}" + (f", {workers} workers" if workers > 1 else "")


def off(said, measured):
    return f"{(said / measured - 1) * 100:+.0f} %"


def tables_measured(points):
    ready = [p for p in points if "trouble" not in p]
    rows = [
        [
            name(p["which"]),
            f"{p['cpu'] * 100:.1f} %",
            f"{p['cpu_main_meta'] * 100:.1f} %",
            f"{p['mb']:.0f}",
            f"{p['bytes'] / 1000:,.0f}",
            f"{p['heartbeats']:,.0f}",
            f"{p['pings']:,.0f}",
            f"{p['segments']:,.0f}",
            f"{p['threads']:.0f}",
            f"{p['files']:.0f}",
            f"{p['load']:.1f}",
        ]
        for p in ready
    ]
    yield "At rest, one worker a node. CPU and memory of a node (of the meta group's leader the main thread alone, too), the rest of the whole cluster, a second."
    yield table(["nodes x groups", "CPU", "main thread, meta's leader", "MB", "kB", "heartbeats", "pings", "segments", "threads", "files", "load"], rows)
    yield from (f"- {name(p['which'])}: {p['trouble']} (load {p['load']:.1f})" for p in points if "trouble" in p)
    seconds = lambda value: "-" if value is None else f"{value:.1f} s"  # noqa: E731
    rows = [
        [name(p["which"]), seconds(p["ready_s"]), f"{p.get('led', '-')}", seconds(p.get("failover_s")), seconds(p.get("back_s"))]
        for p in ready
    ]
    yield "From the start of an empty cluster until it is ready; from a node's death until each group has a leader again; from its start until it is ready."
    yield table(["nodes x groups", "founded", "groups it led", "led again", "back"], rows)


def table_clients(clients):
    first = clients[0]
    rows = [
        [
            f"{c['clients']:,}",
            f"{c['cpu'] * 100:.1f} %",
            f"{c['mb']:.0f}",
            "" if c is first else f"{(c['mb'] - first['mb']) * 1024 / c['clients']:.1f}",
            f"{c['load']:.1f}",
        ]
        for c in clients
    ]
    yield "Idle clients of one node with 8 groups."
    yield table(["clients", "CPU", "MB", "KiB a client", "load"], rows)


def tables_model(points):
    ready = [p for p in points if "trouble" not in p]
    cpu, memory = Fit(cpu_causes, "cpu", ready), Fit(memory_causes, "mb", ready)
    rows = []
    for p in ready:
        which = n, g, w = p["which"]
        row = [name(which)]
        for said, measured in [
            (constants().heartbeats(n, g), p["heartbeats"]),
            (constants().pings(n, w), p["pings"]),
            (constants().bytes_between(n, g, w), p["bytes"]),
        ]:
            row.append("" if n == 1 else off(said, measured))
        for fit, measured in [(cpu, p["cpu"]), (memory, p["mb"])]:
            row += [off(fit.of(*which), measured), off(fit.unseen(p), measured)]
        rows.append(row)
    yield f"The model less what was measured. Messages and bytes follow from constants alone; CPU and memory have prices that are fitted to the clusters of up to {FITTED_TO_GROUPS} groups (`unseen`: to all of them but this one)."
    yield table(["nodes x groups", "heartbeats", "pings", "bytes", "CPU", "CPU, unseen", "memory", "memory, unseen"], rows)
    (base, led, followed, link), (base_mb, group_mb, socket_mb) = cpu.prices, memory.prices
    yield (
        f"Fitted, CPU a second: {base * 1e3:.0f} ms a node, {led * 1e6:.0f} us a group that it leads, {followed * 1e6:.0f} us one that it follows, "
        f"{link * 1e6:.0f} us a socket of a link. Memory: {base_mb:.0f} MB a node, {group_mb * 1024:.0f} KiB a group, {socket_mb * 1024:.0f} KiB a socket."
    )
    w = WORKERS_BEYOND
    rows = [
        [
            f"{n} x {g:,}",
            f"{cpu.of(n, g, w) * 100:,.0f} %",
            f"{cpu.of(n, g, w) * n:,.1f}",
            f"{memory.of(n, g, w):,.0f}",
            f"{constants().heartbeats(n, g):,.0f}",
            f"{constants().pings(n, w):,.0f}",
            f"{constants().bytes_between(n, g, w) / n / 1e6:.2f}",
            f"{constants().sockets(n, w):,}",
            f"{constants().table_bytes(n, g) / 1000:,.0f}",
        ]
        for n, g in BEYOND
    ]
    yield f"Carried on, with {w} workers a node. CPU, MB, sent MB a second and sockets are of one node; heartbeats and pings a second of the cluster; kB of the table."
    yield table(["nodes x groups", "CPU", "cores, all nodes", "MB", "heartbeats", "pings", "MB/s", "sockets", "table, kB"], rows)


def words_of_slow(points, slow):
    def told(point):
        if point is None:
            return "not measured"
        if "trouble" in point:
            return "not ready in time"
        return f"{point['cpu'] * 100:.1f} % CPU, {point['heartbeats']:,.0f} heartbeats, ready after {point['ready_s']:.1f} s"

    usual = {tuple(p["which"]): p for p in points}
    yield f"With Raft's timers four times as long (`{'`, `'.join(SLOW)}`):"
    yield table(["nodes x groups", "usual timers", "slow timers"], [[name(p["which"]), told(usual.get(tuple(p["which"]))), told(p)] for p in slow])


def words(known, quick):
    points, clients = known["points"], known["clients"]
    loads = [p["load"] for p in points]
    yield (
        f"Measured {datetime.date.today()}{' in a hurry' if quick else ''}, {os.cpu_count()} cores of {processor()}, "
        f"load {min(loads):.1f} to {max(loads):.1f}: CPU is an indication where the load was above the cores."
    )
    yield from tables_measured(points)
    yield from words_of_slow(points, known["slow"])
    yield from table_clients(clients)
    yield from tables_model(points)


def written(text):
    page = DOCUMENT.read_text()
    head, rest = page.split(MARKS[0])
    _, tail = rest.split(MARKS[1])
    DOCUMENT.write_text(f"{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}")


def measure(arguments, known):
    """Every point once; those that are known already are not measured again. Calls back with all of them after each."""
    seconds = 6 if arguments.quick else 20
    points, clients = known.setdefault("points", []), known.setdefault("clients", [])
    done = {tuple(p["which"]) for p in points}
    failed = any("trouble" in p for p in points)
    pauses = Pauses()
    pauses.start()
    for which in QUICK if arguments.quick else CLUSTERS + GROWING:
        if which in done or (failed and which in GROWING):
            continue
        point = pauses.undisturbed(lambda: at_rest(which, seconds))  # noqa: B023
        failed |= "trouble" in point
        points.append(point)
        print(json.dumps(point), flush=True)
        yield
    slow = known.setdefault("slow", [])
    for which in (SLOW_AT[:1] if arguments.quick else SLOW_AT)[len(slow) :]:
        slow.append(pauses.undisturbed(lambda: at_rest(which, seconds, SLOW)))  # noqa: B023
        yield
    if not clients:
        clients.extend(pauses.undisturbed(lambda: idle_clients(CLIENTS[:2] if arguments.quick else CLIENTS, seconds)))
        yield


def main():
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer clusters, for a shorter time each")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {DOCUMENT.relative_to(CHECKOUT)}")
    parser.add_argument("--points", type=Path, help="a file that keeps what was measured; what is in it is not measured again")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    known = json.loads(arguments.points.read_text()) if arguments.points and arguments.points.exists() else {}
    for _ in measure(arguments, known):
        if arguments.points:
            arguments.points.write_text(json.dumps(known))
    text = "\n\n".join(words(known, arguments.quick))
    print(text)
    if arguments.write:
        written(text)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"scaling: {trouble}")
