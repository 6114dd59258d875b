"""What clients notice while nodes come and go, drain, restart and die, and while slots move: 50 connections read and write all
the time, and what they saw is held against what is promised. Prints the figures; --write puts them into docs/movement.md.

    3-5-3       two nodes more, two nodes less, and all over again until every node has been another
    drain       each node in turn leads nothing, without a spare and with one, and may again
    restart     each node in turn is stopped in order and started again
    slots       200 slots go to a group that another node leads, and back
    kill        each node in turn is killed and started again

40 connections are those of examples/load.rs at the proxy face, which count a request from the moment it was due; the others are
redis-py's plain and cluster clients (movement_clients.py), whose history `jepsen --check` judges for linearizability by key. Each
step is measured by itself. Whoever talks to a node that is let go or restarted may see its connection end, and goes on elsewhere:
that is told apart. Anything else that is no answer is a failure, as is a key that is missed at the end, replicas that differ, and
a command that does not end. A missed bar is none.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, HOST, SLOTS, Cluster, Trouble, built, end_on_sigterm, example, tag_in  # noqa: E402
from packages import venv  # noqa: E402
from servers import fill, metrics, processor, table, verdict  # noqa: E402

DOCUMENT = CHECKOUT / "docs" / "movement.md"
CLIENTS = Path(__file__).with_name("movement_clients.py")
# 50 connections in all.
LOADING, PLAIN, CLUSTERED = 40, 6, 4
CLIENTS_RATE = 500
VALUE_BYTES = 32
MOVED_SLOTS = 200
# Movement must not take longer; a command that does has failed.
DONE_WITHIN_S = 120
JUDGED_WITHIN_S = 300
STILL_S = 5
# What a step has left behind is still measured with it.
AFTER_S = 0.5
DEAD_FOR_S = 2
# Where requests wait for so long while nothing happens, they end at their deadlines as soon as something does: that says nothing.
TOO_BUSY_MS = 250
P99_BAR_MS, LEADERLESS_BAR_MS, SEEN_BAR_S, BACK_BAR_S, SHARE_BAR = 50, 100, 5, 15, 0.10
# Keys that one check asks for at once.
ASKED_AT_ONCE = 1000


def until(what, holds, within_s=DONE_WITHIN_S):
    """Waits for a condition; returns the seconds that it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise Trouble(f"{what}: not after {within_s} s")
        time.sleep(0.02)
    return time.monotonic() - began


@dataclass
class Step:
    """What was done, and what clients noticed."""

    kind: str
    what: str
    # Numbers of nodes whose clients may see their connections end.
    going: set
    began: float = 0.0
    ended: float = 0.0
    took: float = 0.0
    load: dict = field(default_factory=dict)
    # What was found besides: name -> value.
    found: dict = field(default_factory=dict)
    # What clients had instead of answers, and what those of nodes that went had: how often each.
    failed: Counter = field(default_factory=Counter)
    apart: Counter = field(default_factory=Counter)

    def ms(self, what, kind):
        return self.load[kind][f"{what}_us"] / 1000

    def worst(self, what):
        return max(self.ms(what, "get"), self.ms(what, "set"))

    def judge_load(self, cluster):
        """Sorts what the load saw."""
        node_at = {node.address("resp"): node.number for node in cluster.nodes}
        for address, trouble in self.load["at"].items():
            for kind, count in trouble.items():
                self.judge(kind, count, node_at[address], "load", self.load["first_error"] or "")

    def judge(self, kind, count, node, who, text):
        """A cluster client does not always tell whom it talked to."""
        whose = node in self.going or (node is None and self.going)
        if whose and kind != "timeout":
            self.apart[kind] += count
        else:
            self.failed[f"{who} at node {node}: {kind} {text}"] += count


class Load:
    """examples/load.rs, told when a part of the time ends."""

    def __init__(self, cluster, options):
        command = [str(options.load), "--parts", "--rate", options.rate - CLIENTS_RATE, "--connections", LOADING]
        command += ["--keys", options.keys, "--value-bytes", VALUE_BYTES]
        for node in cluster.nodes:
            command += ["--address", node.address("resp")] if node.running else []
            command += ["--roam", node.address("resp")]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def part(self, last=False):
        try:
            if last:
                self.process.stdin.close()
            else:
                self.process.stdin.write("\n")
                self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise Trouble("the load ended with an error") from None

    def end(self):
        self.process.kill()
        self.process.wait()


class Clients:
    """movement_clients.py."""

    def __init__(self, cluster, options, tags):
        ports = {face: {node.number: node.port(door) for node in cluster.nodes} for face, door in (("proxy", "resp"), ("cluster", "cluster"))}
        self.history, began = cluster.folder / "history.jsonl", time.monotonic()
        plan = {**ports, "nodes": [node.number for node in cluster.nodes if node.running], "began": began, "history": str(self.history)}
        plan |= {"proxies": PLAIN, "clusters": CLUSTERED, "rate": CLIENTS_RATE, "tags": tags}
        self.process = subprocess.Popen([options.python, str(CLIENTS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.say(plan)
        if self.process.stdout.readline() != "ready\n":
            raise Trouble("the clients do not start")

    def say(self, what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def finish(self, nodes):
        """Has them read everything through these nodes; what they say."""
        self.say(nodes)
        told = json.loads(self.process.stdout.readline() or "null")
        if told is None or told["wrong"]:
            raise Trouble(f"the clients ended with an error: {told and told['wrong']}")
        return told

    def end(self):
        self.process.kill()
        self.process.wait()


class Run:
    """A cluster with clients, and the steps that were taken."""

    def __init__(self, name, options):
        self.name, self.options, self.steps, self.wrong, self.notes = name, options, [], [], {}
        self.cluster = Cluster(3, options.set, parent=options.dir, room=5)

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(self.cluster)
            # All ports are known from the beginning; those who come later find their directory empty.
            for _ in range(2):
                cluster.newcomer()
            fill(cluster.nodes[0].port("resp"), self.options.keys, VALUE_BYTES)
            self.moving, self.source, self.target = self.slots_to_move()
            self.clients = Clients(cluster, self.options, self.tags())
            stack.callback(self.clients.end)
            self.load = Load(cluster, self.options)
            stack.callback(self.load.end)
            with self.step("still", "nothing happens"):
                time.sleep(STILL_S)
            if self.steps[0].worst("p99") > TOO_BUSY_MS:
                raise Trouble(f"this machine is too busy for {self.options.rate} operations a second; a lower --rate still finds failures")
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind, *_):
        if kind or self.failures():
            self.cluster.keep = True
            print(f"logs and history: {self.cluster.folder}", flush=True)
        self.stack.close()

    @property
    def nodes(self):
        return [node for node in self.cluster.nodes if node.running]

    def ctl(self, *words, ask=None, within_s=DONE_WITHIN_S):
        """What hypercachectl says, asked of this node or of any that runs."""
        command = [str(self.cluster.program.with_name("hypercachectl")), "-o", "json", "--timeout", str(within_s)]
        for node in [ask] if ask else self.nodes:
            command += ["--endpoint", node.address("grpc")]
        told = subprocess.run([*command, *words], capture_output=True, text=True)
        if told.returncode != 0:
            raise Trouble(f"{' '.join(words)} ended with {told.returncode}: {told.stderr.strip()}")
        return json.loads(told.stdout)

    def slots_to_move(self):
        """Some slots of a group, as a range, and a group that another node leads."""
        leaders = {group["id"]: group["leader"] for group in self.ctl("status")["groups"] if group["id"]}
        source = random.choice(list(leaders))
        target = random.choice([group for group, leader in leaders.items() if leader != leaders[source]])
        owned = next(each["slots"] for each in self.ctl("slots", "list")["owned"] if each["group"] == source)
        return expand(owned)[:MOVED_SLOTS], source, target

    def tags(self):
        """Half of the clients' keys are where slots move, if they do."""
        if self.name == "slots":
            return [tag_in(slot) for slot in (*self.moving[:: MOVED_SLOTS // 4], *random.sample(range(SLOTS), 4))]
        return [tag_in(slot) for slot in random.sample(range(SLOTS), 8)]

    @contextlib.contextmanager
    def step(self, kind, what, going=()):
        step = Step(kind, what, {node.number for node in going}, began=time.monotonic())
        yield step
        step.took = step.took or time.monotonic() - step.began
        time.sleep(AFTER_S)
        step.load, step.ended = self.load.part(), time.monotonic()
        step.judge_load(self.cluster)
        self.steps.append(step)
        trouble = f", {step.failed.total()} FAILURES" if step.failed.total() else ""
        found = "".join(f", {name} {value:.2f}" for name, value in step.found.items())
        print(f"  {what}: {step.took:.2f} s, p99 {step.worst('p99'):.1f} ms, longest {step.worst('max'):.0f} ms{found}{trouble}", flush=True)

    def votes(self):
        return {(group["id"], voter) for group in self.ctl("status")["groups"] for voter in group["voters"]}

    def level(self, node):
        """Whether it has applied what the others had committed when this was called."""
        try:
            others = [metrics(other.port("http")) for other in self.nodes if other is not node]
            mine = metrics(node.port("http"))
        except OSError:
            return False
        committed = lambda of, label: of.get(("hypercache_group_committed_index", label), 0)  # noqa: E731
        labels = {label for of in others for name, label in of if name == "hypercache_group_committed_index"}
        applied = lambda label: mine.get(("hypercache_group_applied_index", label), -1)  # noqa: E731
        return all(applied(label) >= max(committed(of, label) for of in others) for label in labels)

    def rounds(self, one, share=1.0):
        """Again and again until its share of the time is over."""
        began = time.monotonic()
        while True:
            one()
            if time.monotonic() - began > share * self.options.seconds:
                return

    def finish(self):
        """No more load. Whether nothing was lost."""
        self.load.part(last=True)
        told = self.clients.finish([node.number for node in self.nodes])
        for failure in told["failures"]:
            step = next((step for step in self.steps if step.began <= failure["at"] <= step.ended), None)
            who = f"redis-py, {failure['face']} face,"
            (step or self.steps[-1]).judge(failure["kind"], 1, failure["node"], who, failure["text"])
        there = self.count_keys()
        if there != self.options.keys:
            self.wrong.append(f"{self.options.keys - there} of {self.options.keys} keys are gone")
        try:
            self.ctl("verify")
        except Trouble as trouble:
            self.wrong.append(str(trouble))
        self.judge_history()
        self.notes["moved"] = sum(metrics(node.port("http")).get(("hypercache_errors_total", 'code="MOVED"'), 0) for node in self.nodes)
        self.leaderless = leaderless(self.cluster)

    def failures(self):
        """All that should not have been, in words."""
        failed = [(step.what, what, count) for step in self.steps for what, count in (+step.failed).items()]
        return self.wrong + [f"{step}: {count} times {what}" for step, what, count in failed]

    def count_keys(self):
        """How many of the keys that were filled in are there; nobody deletes one."""
        found, keys = 0, [f"key:{number:012d}" for number in range(self.options.keys)]
        for first in range(0, len(keys), ASKED_AT_ONCE):
            command = ["redis-cli", "-p", str(self.nodes[0].port("resp")), "EXISTS", *keys[first : first + ASKED_AT_ONCE]]
            found += int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return found

    def judge_history(self):
        command = [str(self.options.jepsen), "--check", str(self.clients.history), "--workload", "register"]
        judged = subprocess.run(command, capture_output=True, text=True, timeout=JUDGED_WITHIN_S)
        self.notes["judged"] = judged.stdout.splitlines()[0] if judged.stdout else judged.stderr
        if judged.returncode != 0:
            self.wrong.append(f"the history is not linearizable:\n{judged.stdout}{judged.stderr}")


def expand(text):
    """The slots of `0-99,205`."""
    ranges = (part.split("-") for part in text.split(",") if part)
    return [slot for first, *last in ranges for slot in range(int(first), int((last or [first])[0]) + 1)]


def shorten(slots):
    """The other way round."""
    starts = [slot for slot in slots if slot - 1 not in slots]
    ends = [slot for slot in slots if slot + 1 not in slots]
    return ",".join(f"{first}-{last}" for first, last in zip(starts, ends))


TOLD = re.compile(r"(\S+Z)\s.*\b(leader-changed|leader-lost|node-stopped)\b.* node=(\d+)(?: group=(\d+))?(?:.* leader=(\d+))?")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def leaderless(cluster):
    """For each time that a group's leader went, the seconds in which no node took itself for the leader, by their logs."""
    changes, stops = {}, []
    for log in cluster.folder.glob("node-*/log"):
        for line in log.read_text(errors="replace").splitlines():
            if found := TOLD.match(COLOURS.sub("", line)):
                at, what, node, group, leader = found.groups()
                told = (datetime.datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp(), node, leader == node)
                (stops if what == "node-stopped" else changes.setdefault(group, [])).append(told)
    return [gap for told in changes.values() for gap in gaps(sorted(told + stops))]


def gaps(told):
    """Of one group: when which node said whether it leads."""
    leading, last, since = set(), None, None
    for at, node, leads in told:
        if not leads:
            since = at if leading == {node} else since
            leading.discard(node)
            continue
        if not leading and last:
            yield at - since
        elif last not in (None, node):
            yield 0.0
        leading.add(node)
        last = node


def three_five_three(run):
    """The two that have been there longest go, so that all of them have gone at last."""
    served = list(run.nodes)

    def one():
        for _ in range(2):
            served.append(add(run))
        for _ in range(2):
            remove(run, served.pop(0))

    run.rounds(one)


def add(run):
    node = next(node for node in run.cluster.nodes if not node.running)
    shutil.rmtree(node.folder / "data", ignore_errors=True)
    waited = waits_told(node)
    node.start(join=True)
    until(f"{node.name} waits to be added", lambda: waits_told(node) > waited)
    before, count = run.votes(), len(run.nodes)
    planned = len(run.ctl("node", "add", node.address("peer"), "--dry-run")["moves"])
    with run.step("add", f"{node.name} is added, the {count}th") as step:
        run.ctl("node", "add", node.address("peer"), "--wait")
        step.took = time.monotonic() - step.began
        step.found["share of votes moved"] = len(run.votes() - before) / len(before)
        step.found["share planned"] = planned / len(before)
        step.found["at most"] = 1 / count + SHARE_BAR
        run.cluster.wait_ready()
    return node


def waits_told(node):
    log = node.folder / "log"
    return log.read_text(errors="replace").count("node-waits") if log.exists() else 0


def remove(run, node):
    with run.step("remove", f"{node.name} is removed", [node]) as step:
        run.ctl("node", "remove", node.name, "--wait")
        step.took = time.monotonic() - step.began
        if code := node.process.wait(DONE_WITHIN_S):
            run.wrong.append(f"{node.name} ended with {code} when it was removed")
        # It is not missed.
        node.process = None


def drain(run):
    def one():
        for node in run.nodes:
            drain_one(run, node)

    run.rounds(one, 0.5)
    add(run)
    run.rounds(one, 0.5)


def drain_one(run, node):
    spare = len(run.nodes) > 3
    with run.step("drain, a spare" if spare else "drain, no spare", f"{node.name} is drained{', there is a spare' if spare else ''}"):
        run.ctl("node", "drain", node.name, "--wait")
    listed = next(each for each in run.ctl("node", "list")["nodes"] if each["name"] == node.name)
    if listed["leads"] or (spare and listed["votes"]):
        run.wrong.append(f"{node.name} was drained and still leads {listed['leads']} groups and votes in {listed['votes']}")
    with run.step("undrain", f"{node.name} may lead again"):
        run.ctl("node", "drain", node.name, "--undo", "--wait")


def restart(run):
    def one():
        for node in run.nodes:
            with run.step("restart", f"{node.name} is restarted", [node]) as step:
                if code := node.terminate():
                    run.wrong.append(f"{node.name} ended with {code} on SIGTERM")
                start(run, node, step)

    run.rounds(one)


def start(run, node, step):
    """Until it serves and has what the others have."""
    began = time.monotonic()
    node.start()
    run.cluster.wait_ready()
    until(f"{node.name} has caught up", lambda: run.level(node))
    step.found["seconds until caught up"] = time.monotonic() - began


def kill(run):
    def one():
        for node in run.nodes:
            others = [other for other in run.nodes if other is not node]
            # Nobody planned this: what all clients were told is told apart, and judged.
            with run.step("kill", f"{node.name} is killed", run.cluster.nodes) as step:
                node.kill()
                step.found["seconds until seen"] = max(until(f"{other.name} sees it", lambda: is_down(run, node, other)) for other in others)
                time.sleep(DEAD_FOR_S)
                start(run, node, step)

    run.rounds(one)


def is_down(run, node, other):
    return not next(each["alive"] for each in run.ctl("node", "list", ask=other)["nodes"] if each["name"] == node.name)


def slots(run):
    def one():
        for group in (run.target, run.source):
            with run.step("slots", f"{MOVED_SLOTS} slots go to group {group}"):
                told = run.ctl("slots", "move", shorten(run.moving), "--to", str(group), "--wait")
                if not told["done"]:
                    run.wrong.append(f"slots move --wait ended before it was done: {told}")

    run.rounds(one)


SCENARIOS = {"3-5-3": three_five_three, "drain": drain, "restart": restart, "slots": slots, "kill": kill}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def demands(run):
    """Rows: what is demanded, what was found, the bar, whether it was reached."""
    failed = sum(step.failed.total() for step in run.steps)
    if run.name != "kill":
        yield [f"{run.name}: failures of clients", f"{failed}", "0", verdict(failed == 0)]
    yield [f"{run.name}: linearizable, nothing lost", f"{run.notes['judged']}; {run.notes['moved']:.0f} MOVED", "", verdict(not run.wrong)]
    moving = [step for step in run.steps if step.kind != "still"]
    found = lambda name: [step.found[name] for step in moving if name in step.found]  # noqa: E731
    if run.name == "3-5-3":
        p99 = max(step.worst("p99") for step in moving)
        yield ["3-5-3: p99 of the worst step", f"{p99:.1f} ms", f"< {P99_BAR_MS} ms", verdict(p99 < P99_BAR_MS)]
        over = max(share - bar for share, bar in zip(found("share of votes moved"), found("at most")))
        shares = ", ".join(sorted({f"{share:.0%} of {bar:.0%}" for share, bar in zip(found("share of votes moved"), found("at most"))}))
        yield ["3-5-3: votes moved by adding a node", shares, "1/n + 10 %", verdict(over <= 0)]
    if run.name in ("drain", "restart"):
        worst = 1000 * percentile(run.leaderless, 0.99)
        told = f"{worst:.0f} ms of {len(run.leaderless)}"
        yield [f"{run.name}: no leader, p99 of planned transfers", told, f"< {LEADERLESS_BAR_MS} ms", verdict(worst < LEADERLESS_BAR_MS)]
    if run.name == "kill":
        seen, back = max(found("seconds until seen")), max(found("seconds until caught up"))
        yield ["kill: seen by all others", f"{seen:.1f} s", f"< {SEEN_BAR_S} s", verdict(seen < SEEN_BAR_S)]
        yield ["kill: caught up after its start", f"{back:.1f} s", f"< {BACK_BAR_S} s", verdict(back < BACK_BAR_S)]


def kinds(run):
    """Rows: each kind of step, its medians and its worst."""
    for kind in dict.fromkeys(step.kind for step in run.steps):
        steps = [step for step in run.steps if step.kind == kind]
        middle = statistics.median
        row = [f"{run.name}: {kind}", f"{len(steps)}", f"{middle(step.took for step in steps):.1f} ({max(step.took for step in steps):.1f})"]
        for what, of in (("p99", "get"), ("p99", "set")):
            values = [step.ms(what, of) for step in steps]
            row.append(f"{middle(values):.1f} ({max(values):.1f})")
        longest = [step.worst("max") for step in steps]
        row += [f"{middle(longest):.0f} ({max(longest):.0f})", f"{sum(step.failed.total() for step in steps)}"]
        apart = +sum((step.apart for step in steps), Counter())
        row.append(", ".join(f"{count} {kind}" for kind, count in apart.items()) or "0")
        yield row


def stolen():
    """Ticks that the machine's owner took, and all ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return ticks[7], sum(ticks[:8])


def document(options, busy, steal, runs):
    held = table(["demand", "found", "bar", ""], [row for run in runs for row in demands(run)])
    head = ["while", "times", "s", "GET p99 ms", "SET p99 ms", "longest request, ms", "failures", "told apart"]
    steps = table(head, [row for run in runs for row in kinds(run)])
    return f"""# Movement

Written by `scripts/movement --write`; do not edit. What it does is told in `tests/bench/movement.py`.

- {datetime.date.today()}, {os.cpu_count()} cores ({processor()}), Linux {platform.release().split('-')[0]}; all nodes and all clients share them.
- Load average when it began: {busy:.1f}; {steal:.0%} of the time was stolen by others on the same hardware. Above about 0.5, or with anything stolen, latencies are
  only an indication.
- Three nodes (up to five), 8 groups of three copies, `storage.sync: always`; {options.keys:,} keys with values of {VALUE_BYTES} bytes; {options.rate:,} operations a second
  over 50 connections: {LOADING} at the proxy face, counted from the moment each was due, {PLAIN} plain and {CLUSTERED} cluster clients of redis-py.
- *Failures*: error replies, broken connections and time-outs of clients whose node was there. *Told apart*: those of clients whose node was just let go, restarted or
  killed. They go on at another node.

{held}

Median of all steps of a kind, and the worst:

{steps}
"""


def options_of(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    parser.add_argument("--seconds", type=float, default=60, help="how long the steps of each part are repeated, once at least")
    parser.add_argument("--rate", type=int, default=5_000, help="operations a second")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--set", action="append", default=[], help="a setting of the servers, as --set takes it")
    parser.add_argument("--dir", help="where the servers keep their files")
    parser.add_argument("--write", action="store_true", help="write docs/movement.md")
    options = parser.parse_args(arguments)
    options.load, options.python = example("load"), venv("redis-py-latest", "redis>=8")
    beside = os.environ.get("HYPERCACHE_BIN") and Path(os.environ["HYPERCACHE_BIN"]).with_name("jepsen")
    options.jepsen = beside if beside and beside.exists() else built("--package", "jepsen") / "jepsen"
    return options


def main():
    end_on_sigterm()
    options = options_of(None)
    busy, before, runs = os.getloadavg()[0], stolen(), []
    for name in options.only or SCENARIOS:
        print(name, flush=True)
        with Run(name, options) as run:
            SCENARIOS[name](run)
            run.finish()
        print(f"  {run.notes['judged']}; {'FAILED' if run.failures() else 'passed'}", flush=True)
        runs.append(run)
    steal = [now - then for now, then in zip(stolen(), before)]
    text = document(options, busy, steal[0] / max(1, steal[1]), runs)
    if options.write:
        DOCUMENT.write_text(text)
    print(text.split("\n\n", 3)[3])
    wrong = [f"{run.name}: {wrong}" for run in runs for wrong in run.failures()]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        sys.exit(f"movement: {trouble}")
