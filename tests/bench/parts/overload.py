"""Three nodes with one group, all of it led by one of them, and more than it can serve:

- *a flood*: 2,000 connections with 64 SETs of 1 KiB each under way, twice what may wait in a group (64 MiB);
- *who never reads*: GETs of 1 MB are sent until the server takes no more of them, and no reply is read;
- *large values*: 16 connections send a SET of 32 MiB each at the same moment, and one sends more than an entry may hold.

Memory is the largest resident size of a node meanwhile, beyond what it was before. The bounds are those of the documents (`docs/operating/failure-modes.md`, `docs/configuration.md`):
what clients may have sent unserved (here: what they send), 64 MiB waiting in a group, `limits.output_buffer` for a client that does not read; twice
that, since it is on its way between nodes and to the disk as well. The excess must be refused with an error that means *not applied* (`docs/guarantees.md`)."""

import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from cluster import HOST, Cluster, Trouble
from loads import MIDDLE, VALUE_BYTES, Load, allow_files, alternate, flags, have_lead, pids_of, program, redis_benchmark, resident, say
from report import Bar, load_table, number
from servers import cli, fill, table

TITLE = "Overload"
CONNECTIONS, PIPELINE, FLOOD_BYTES = 2000, 64, 1024
QUEUE_MB, OUTPUT_MB = 64, 256
LARGE_BYTES, LARGE_AT_ONCE = 32 << 20, 16
# Beyond what an entry may hold, and below what the decoder takes.
TOO_LARGE_BYTES = 300 << 20
KEYS = 10_000
SILENT_AFTER_S = 3
ANSWERED_WITHIN_S = 60
# They say that nothing happened, now or later.
NOT_APPLIED = {"THROTTLED", "TRYAGAIN", "OOM", "CLUSTERDOWN", "ERR"}
GROUP = 1
BEFORE, AFTER = "before", "afterwards"


class Watch:
    """The largest resident size of any node while it lasts, beyond its size before, in MB."""

    def __init__(self, cluster):
        self.cluster, self.over = cluster, threading.Event()
        self.before, self.grown = resident(cluster), 0.0
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.over.wait(0.05):
            self.grown = max(self.grown, *(now - before for now, before in zip(resident(self.cluster), self.before)))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def measure(bench):
    allow_files(2 * CONNECTIONS)
    with Cluster(3, ["cluster.groups=1"], parent=bench.folder) as cluster:
        leader = cluster.nodes[0]
        have_lead(cluster, leader)
        fill(leader.port("resp"), KEYS, VALUE_BYTES)
        asked = [
            Load(test.upper(), pids_of(cluster), redis_benchmark(leader.port("resp"), MIDDLE, "-t", test, keys=KEYS)) for test in ("set", "get")
        ]
        before, found = alternate(asked, bench.scale, "all is well"), {}
        for name, overload in (("flood", flood), ("unread", unread), ("large", large)):
            found[name] = overload(cluster, leader, bench.scale)
            found[name]["kept"], found[name]["again_s"] = recovered(cluster, leader)
        after = alternate(asked, bench.scale, "all is well again")
    return {**found, "rows": {test: {BEFORE: before[test], AFTER: after[test]} for test in before}}


def flood(cluster, leader, scale):
    options = {"closed": True, "connections": CONNECTIONS, "pipeline": PIPELINE, "seconds": 2 * scale.seconds, "gets": 0, "keys": KEYS, "value_bytes": FLOOD_BYTES}
    with Watch(cluster) as watch:
        said = program("load", ["--address", leader.address("resp"), *flags(options)])
    bound = 2 * (CONNECTIONS * PIPELINE * FLOOD_BYTES / 2**20 + QUEUE_MB)
    say(f"  flood: {said['rate']:,.0f}/s answered, refused {said['codes']}, {watch.grown:.0f} MB more, bound {bound:.0f}")
    return {"rate": said["rate"], "count": said["count"], "codes": said["codes"], "grown_mb": watch.grown, "bound_mb": bound}


def recovered(cluster, leader):
    """Whether the leader is the same, and after how long it leads and takes writes again."""
    began = time.monotonic()
    cluster.wait_ready()
    kept = cluster.leaders().get(GROUP) is leader
    have_lead(cluster, leader)
    while cli(leader.port("resp"), "SET", "again", "x").strip() != "OK":
        if time.monotonic() - began > ANSWERED_WITHIN_S:
            raise Trouble(f"no writes are taken {ANSWERED_WITHIN_S} s after the overload")
    return kept, time.monotonic() - began


def words(*all_of_them):
    return b"*%d\r\n" % len(all_of_them) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in all_of_them)


def unread(cluster, leader, _):
    """Sends until nothing has been taken for a while."""
    at = (HOST, leader.port("resp"))
    value = b"x" * 1_000_000
    with socket.create_connection(at, ANSWERED_WITHIN_S) as writing:
        writing.sendall(words(b"SET", b"large", value))
        expect(writing, b"+OK")
    asked = 0
    with Watch(cluster) as watch, socket.create_connection(at, SILENT_AFTER_S) as silent:
        gets = words(b"GET", b"large") * 100
        try:
            while True:
                asked += silent.send(gets)
        except TimeoutError:
            pass
    asked_mb = asked / len(gets) * 100 * len(value) / 2**20
    say(f"  unread: {asked_mb:,.0f} MB of replies asked for, {watch.grown:.0f} MB more")
    return {"asked_mb": asked_mb, "grown_mb": watch.grown, "bound_mb": 2 * OUTPUT_MB}


def expect(connection, *answers):
    said = connection.recv(1000)
    if not said.startswith(answers):
        raise Trouble(f"a SET was answered {said[:200]!r}")
    return said.split()[0].decode()


def large(cluster, leader, _):
    def ask(number, size):
        with socket.create_connection((HOST, leader.port("resp")), ANSWERED_WITHIN_S) as connection:
            connection.sendall(words(b"SET", b"large:%d" % number, b"x" * size))
            return expect(connection, b"+OK", b"-")

    with Watch(cluster) as watch, ThreadPoolExecutor(LARGE_AT_ONCE) as threads:
        answers = list(threads.map(lambda number: ask(number, LARGE_BYTES), range(LARGE_AT_ONCE)))
    too_large = ask(LARGE_AT_ONCE, TOO_LARGE_BYTES)
    # What was stored stays, beside what was under way.
    sent = LARGE_AT_ONCE * LARGE_BYTES / 2**20
    counts = {answer: answers.count(answer) for answer in sorted(set(answers))}
    say(f"  large: {counts}, {watch.grown:.0f} MB more; too large: {too_large}")
    return {"answers": counts, "too_large": too_large, "grown_mb": watch.grown, "bound_mb": 2 * (sent + QUEUE_MB)}


def unclear(found):
    """Answers that leave open whether a write was applied, and a value that was taken though it is too large."""
    answers = Counter(found["flood"]["codes"])
    answers.update({answer.removeprefix("-"): count for answer, count in found["large"]["answers"].items() if answer != "+OK"})
    wrong = sum(count for code, count in answers.items() if code not in NOT_APPLIED)
    return wrong + (found["large"]["too_large"].removeprefix("-") not in NOT_APPLIED)


def bars(found):
    kept = min(rows[AFTER]["rate"] / rows[BEFORE]["rate"] for rows in found["rows"].values())
    names = {"flood": "a flood", "unread": "a client that never reads", "large": "values at the size limit"}
    return [
        *(Bar(f"overload, {name}: memory", found[what]["grown_mb"], found[what]["bound_mb"], " MB") for what, name in names.items()),
        Bar("overload: refusals that leave open whether they were applied", unclear(found), 0),
        Bar("overload: throughput afterwards to that before", kept, 0.8, at_least=True),
    ]


def tell(found):
    flood, unread, large = found["flood"], found["unread"], found["large"]
    refused = ", ".join(f"{count:,} {code}" for code, count in flood["codes"].items()) or "nothing"
    counts = ", ".join(f"{count} of {answer.strip('+-')}" for answer, count in large["answers"].items())
    answers = {
        "flood": f"{flood['count']:,} answered; refused: {refused}",
        "unread": f"{unread['asked_mb']:,.0f} MB asked for",
        "large": f"{counts}; too large: {large['too_large'].strip('-')}",
    }
    rows = []
    for name, said in answers.items():
        each = found[name]
        rows.append([name, said, number(each["grown_mb"]), number(each["bound_mb"]), "yes" if each["kept"] else "no", number(each["again_s"])])
    head = ["", "answers", "MB more", "bound", "leader kept", "s until writes are taken"]
    return f"{table(head, rows)}\n\n{load_table(found['rows'])}"
