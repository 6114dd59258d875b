"""How much clients wait while one node makes a snapshot of millions of keys, and while it grows from nothing to as many: the
latency of GETs and SETs at a fixed rate, beside that of the same load on a keyspace that stands still while another program
burns as much CPU time as the work in question took. Prints the figures; --write puts them into docs/pauses.md. It judges
nothing: a missed bar is no failure, an error reply is.

    a run           load at a fixed rate  +  `hypercachectl snapshot save` (or growth); its CPU time beyond that of the load
    its comparison  the same load         +  a program that spends that CPU time over the same seconds

Both take turns; figures are medians over the runs. Load is made by examples/load.rs, which counts a request from the moment it
was due. The longest turn of a task on a worker is what the server itself measures (`hypercache_worker_*` in /metrics).
"""

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, HOST, Cluster, Trouble, cpu_seconds, end_on_sigterm, example  # noqa: E402
from servers import fill, metrics, processor, table, verdict  # noqa: E402

DOCUMENT = CHECKOUT / "docs" / "pauses.md"
VALUE_BYTES = 32
# Snapshots are made when they are asked for. What makes one by itself is a log of this size.
NO_SNAPSHOTS = "persistence.snapshot_log_bytes=1TB"
# The load begins so long after it was started, and what goes on beside it so long after that.
LOAD_BEGINS_S, OTHER_BEGINS_S = 0.2, 0.3
# Longer than a comparison needs to be: the load on a keyspace that stands still is the same all the time.
COMPARED_S_MAX = 60
SLICE_S = 0.01
TURN_BAR_MS = 5
TIMES_BAR = 2.0


@dataclass
class Measured:
    """One load: percentiles in milliseconds, and what it cost."""

    get_p99: float
    set_p99: float
    get_max: float
    set_max: float
    seconds: float
    # CPU time of the server and of those who worked beside the load, not of the load itself.
    cpu_s: float
    # Turns of tasks on workers that were longer than so many milliseconds; the longest since the server started.
    long_turns: dict
    longest_turn_ms: float


def burn(seconds, share):
    """Spends this share of a core for so long, evenly."""
    began, burned = time.monotonic(), time.process_time()
    while (passed := time.monotonic() - began) < seconds:
        while time.process_time() - burned < share * passed:
            pass
        time.sleep(SLICE_S)


class Burner:
    """Programs that together spend so much CPU time over so many seconds."""

    def __init__(self, cpu_s, seconds):
        count = max(1, math.ceil(cpu_s / seconds))
        share = max(0.0, cpu_s) / seconds / count
        command = [sys.executable, __file__, "--burn", str(seconds), str(share)]
        self.processes = [subprocess.Popen(command) for _ in range(count)]

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Server:
    """One node, one group."""

    def __init__(self, options, snapshots):
        self.options = options
        settings = list(options.set) + ([] if snapshots else [NO_SNAPSHOTS])
        self.cluster = Cluster(1, settings, parent=options.dir)

    def __enter__(self):
        self.cluster.__enter__()
        self.node = self.cluster.nodes[0]
        return self

    def __exit__(self, *_):
        self.cluster.stop()

    def fill(self):
        fill(self.node.port("resp"), self.options.keys, VALUE_BYTES)

    def turns(self):
        found = metrics(self.node.port("http"))
        counts = {}
        for (name, labels), value in found.items():
            if name == "hypercache_worker_long_turns_total":
                counts[int(labels.split('"')[1])] = int(value)
        return counts, 1000 * found["hypercache_worker_turn_seconds_max", ""]

    def load(self, seconds, gets=50, grow=False, beside=None):
        """The load for so many seconds, beside what `beside` starts once it has begun and what is told to `end` afterwards."""
        command = [str(self.options.program), "--address", f"{HOST}:{self.node.port('resp')}", "--rate", self.options.rate]
        command += ["--seconds", seconds, "--keys", self.options.keys, "--value-bytes", VALUE_BYTES, "--gets", gets]
        command += ["--grow-from", 0] if grow else []
        turns_before, _ = self.turns()
        cpu_before, began = cpu_seconds(self.node.process.pid), time.monotonic()
        running = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
        other = None
        try:
            if beside:
                time.sleep(LOAD_BEGINS_S + OTHER_BEGINS_S)
                other = beside()
            out, _ = running.communicate()
        finally:
            running.kill()
            if other:
                other.end()
        took = time.monotonic() - began
        told = json.loads(out) if running.returncode == 0 else None
        if told is None:
            raise Trouble("the load ended with an error")
        if told["errors"]:
            raise Trouble(f"{told['errors']} error replies, the first: {told['first_error']}\n{self.node.last_words()}")
        turns, longest = self.turns()
        cpu = cpu_seconds(self.node.process.pid) - cpu_before + (other.cpu_s if isinstance(other, Saving) else 0)
        ms = lambda kind, what: told[kind][f"{what}_us"] / 1000  # noqa: E731
        over = {limit: count - turns_before[limit] for limit, count in turns.items()}
        return Measured(ms("get", "p99"), ms("set", "p99"), ms("get", "max"), ms("set", "max"), took, cpu, over, longest)

    def save(self):
        return Saving(self)


class Saving:
    """A snapshot of the group, made and carried into a file."""

    def __init__(self, server):
        program = server.cluster.program.with_name("hypercachectl")
        file = server.cluster.folder / f"snapshot-{time.monotonic_ns()}"
        command = [str(program), "--endpoint", server.node.address("grpc"), "snapshot", "save", "--group", "1", str(file)]
        self.file, self.began = file, time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.seconds = self.cpu_s = None

    def end(self):
        """Waits for it. The CPU time is that of the tool; the server's own is counted there."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.seconds = time.monotonic() - self.began
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.file.unlink(missing_ok=True)
        if self.process.returncode != 0:
            raise Trouble("the snapshot was not saved")


def show(what, measured):
    print(
        f"  {what}: GET p99 {measured.get_p99:.2f} ms (max {measured.get_max:.0f}), SET p99 {measured.set_p99:.2f} ms "
        f"(max {measured.set_max:.0f}), {measured.cpu_s:.1f} s of CPU in {measured.seconds:.1f} s, longest turn {longest_turn(measured)}",
        flush=True,
    )
    return measured


def longest_turn(measured):
    """As close as the server's counters tell it for the time of one load."""
    over = [ms for ms, count in measured.long_turns.items() if count]
    if not over:
        return f"at most {min(measured.long_turns)} ms"
    above = [ms for ms in measured.long_turns if ms > max(over)]
    return f"{max(over)} to {min(above)} ms" if above else f"{measured.longest_turn_ms:.0f} ms"


@dataclass
class Compared:
    """What was measured, and the same load beside a program that burns as much."""

    name: str
    runs: list
    others: list
    seconds: float

    def median(self, runs, what):
        return statistics.median(getattr(run, what) for run in runs)

    def times(self, what):
        return self.median(self.runs, what) / self.median(self.others, what)

    def rows(self):
        for what, name in (("get_p99", "GET"), ("set_p99", "SET")):
            with_it, without = self.median(self.runs, what), self.median(self.others, what)
            worst = self.median(self.runs, what.replace("p99", "max"))
            times = self.times(what)
            yield [
                f"{self.name}, {name}", f"{with_it:.2f}", f"{without:.2f}", f"{times:.2f}", f"<= {TIMES_BAR}", verdict(times <= TIMES_BAR), f"{worst:.0f}",
            ]

    def turns(self):
        over = sum(run.long_turns[TURN_BAR_MS] for run in self.runs)
        longest = max(self.runs, key=lambda run: max((ms for ms, count in run.long_turns.items() if count), default=0))
        return [self.name, longest_turn(longest), f"<= {TURN_BAR_MS} ms", verdict(over == 0), str(over)]


def during_snapshots(options):
    runs, others = [], []
    with Server(options, snapshots=False) as server:
        server.fill()
        # How long one takes under this load, and what the load costs by itself.
        probe = []
        server.load(options.probe, beside=lambda: probe.append(server.save()) or probe[0])
        seconds = probe[0].seconds + 2 * OTHER_BEGINS_S
        print(f"snapshots of {options.keys:,} keys, {probe[0].seconds:.1f} s each", flush=True)
        alone = show("the load alone", server.load(seconds))
        for _ in range(options.runs):
            runs.append(show("with a snapshot", server.load(seconds, beside=server.save)))
            extra = max(0, runs[-1].cpu_s - alone.cpu_s)
            others.append(show(f"beside {extra:.1f} s of CPU", server.load(seconds, beside=lambda: Burner(extra, seconds))))
    return Compared("a snapshot", runs, others, seconds)


def during_growth(options):
    gets = options.growth_gets
    seconds = options.keys / (options.rate * (100 - gets) / 100)
    compared_s = min(seconds, COMPARED_S_MAX)
    print(f"growth to {options.keys:,} keys in {seconds:.0f} s, {gets} % GETs", flush=True)
    runs, others = [], []
    with Server(options, snapshots=False) as still:
        still.fill()
        alone = show("the load alone", still.load(compared_s, gets))
        for _ in range(options.runs):
            # Snapshots come as they do by default.
            with Server(options, snapshots=True) as growing:
                runs.append(show("growing", growing.load(seconds, gets, grow=True)))
            extra = max(0, runs[-1].cpu_s / runs[-1].seconds - alone.cpu_s / alone.seconds) * compared_s
            others.append(
                show(f"beside {extra:.1f} s of CPU", still.load(compared_s, gets, beside=lambda: Burner(extra, compared_s)))
            )
    return Compared("growth", runs, others, seconds)


def document(options, busy, found):
    latencies = [row for compared in found for row in compared.rows()]
    head = ["while", "p99 ms", "beside a burner, p99 ms", "times", "bar", "", "longest request, ms"]
    turns = table(["while", "longest turn", "bar", "", f"turns over {TURN_BAR_MS} ms"], [compared.turns() for compared in found])
    lengths = ", ".join(f"{compared.name} {compared.seconds:.0f} s" for compared in found)
    return f"""# Pauses

Written by `scripts/pauses --write`; do not edit. What it does is told in `tests/bench/pauses.py`.

- {datetime.date.today()}, {os.cpu_count()} cores ({processor()}), Linux {platform.release().split('-')[0]}; server and load share them.
- Load average when it began: {busy:.1f}. Above about 0.5 other work was using cores and disk too.
- One node, one group, `storage.sync: always`; {options.keys:,} keys of 16 bytes with values of {VALUE_BYTES}; {options.rate:,} requests a second over 50
  connections, counted from the moment they were due. Medians of {options.runs} runs ({lengths}).
- *Beside a burner*: the same load on a keyspace that stands still and makes no snapshot, while another program spends as much CPU time as the
  snapshot or the growth took. Growth makes snapshots as they come by default.

{table(head, latencies)}

The longest that one turn of a task kept a worker to itself, in CPU time, over all runs (`hypercache_worker_long_turns_total`):

{turns}
"""


def main():
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keys", type=int, default=5_000_000)
    parser.add_argument("--rate", type=int, default=20_000, help="requests a second")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--growth-gets", type=int, default=20, help="share of GETs while it grows, in percent")
    parser.add_argument("--probe", type=float, default=30, help="seconds of load in which the first snapshot must fit")
    parser.add_argument("--only", choices=["snapshot", "growth"])
    parser.add_argument("--set", action="append", default=[], help="a setting of the server, as its --set takes it")
    parser.add_argument("--dir", help="where the servers keep their files")
    parser.add_argument("--write", action="store_true", help="write docs/pauses.md")
    options = parser.parse_args()
    options.program = example("load")
    busy = os.getloadavg()[0]
    found = []
    if options.only != "growth":
        found.append(during_snapshots(options))
    if options.only != "snapshot":
        found.append(during_growth(options))
    text = document(options, busy, found)
    if options.write:
        DOCUMENT.write_text(text)
    print(text.split("\n\n", 3)[3])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--burn"]:
        burn(*map(float, sys.argv[2:4]))
        sys.exit()
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"pauses: {trouble}")
