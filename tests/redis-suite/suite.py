"""Redis 7.0's own test suite, run from outside against HyperCache, and what of it passes.

The suite is Debian's source package, fetched into the cache folder and never part of the checkout. Each of its files is
run by a process of its own against a server of its own, so that neither a crash nor a setting reaches the next one.
Debian's redis-server, run the same way once and remembered, says which tests there are; a test that passes there and
not here is listed in docs/compatibility.md with its reason from reasons.txt. Fewer passed tests in a file than
passed.txt says, a server that ended by itself or a run that was cut short make the run red. Tests that would wait for ever
and take the rest of their file with them are left out by left-out.txt; they count as not passed.
"""

import argparse
import collections
import concurrent.futures
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

from cluster import CHECKOUT, HOST, Cluster, Trouble, cache_dir, end_on_sigterm, free_port  # noqa: E402

PASSED = HERE / "passed.txt"
REASONS = HERE / "reasons.txt"
LEFT_OUT = HERE / "left-out.txt"
REPORT = CHECKOUT / "docs" / "compatibility.md"

# Left out: what only Redis itself can do. Databases, encodings and digests are not compared.
TAGS = " ".join(
    f"-needs:{what}" for what in "debug repl save config-maxmemory reset config-resetstat pfdebug".split()
)
OPTIONS = ["--durable", "--singledb", "--ignore-encoding", "--ignore-digest", "--tags", TAGS]
# Against something that hangs, not against a slow machine: redis-server itself needs 67 s for unit/hyperloglog.
FILE_LIMIT_S = 600
# The suite takes ports upwards from one that it is given, and a file few of them: each that runs gets others.
SUITE_PORTS = itertools.cycle(range(12_000 + os.getpid() % 16 * 512, 12_000 + os.getpid() % 16 * 512 + 512, 32))
RUN_LIMIT_S = 40 * 60
MEMORY_BACKED = Path("/dev/shm")

# The release of Debian whose redis is 7.0.
RELEASE = "bookworm"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
NO_REASON = "not looked at yet"
MODES = {"node": "One node, one group", "cluster": "Three nodes, the proxy face, with the suite's `--cluster-mode`"}


# -- The suite


def sources():
    """The line of a sources list that names where this machine gets its packages from, for sources."""
    wanted = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages", "Component: main"]
    told = subprocess.run(wanted, check=True, capture_output=True, text=True).stdout
    for line in told.splitlines():
        if line.endswith(f" {RELEASE}"):
            return f"deb-src [signed-by={KEYS}] {line} main\n"
    raise Trouble(f"this machine has no packages of Debian {RELEASE}, of which the suite's source is one")


def fetch():
    """The suite's folder; unpacked from Debian's source package if it is not there yet."""
    folder = cache_dir("redis-suite")
    suite = folder / "redis-7.0"
    if (suite / "tests" / "test_helper.tcl").exists():
        return suite
    print("redis-suite: fetching Debian's source package of Redis 7.0", flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        scratch = Path(scratch)
        for part in ("lists/partial", "cache/archives/partial"):
            (scratch / part).mkdir(parents=True)
        listed = scratch / "sources.list"
        listed.write_text(sources())
        # A package list of our own, so that the machine's stays as it is.
        apt = ["apt-get", "-q", "-o", f"Dir::Etc::SourceList={listed}", "-o", "Dir::Etc::SourceParts=-"]
        apt += ["-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}"]
        apt += ["-o", "APT::Sandbox::User="]
        quiet = {"cwd": scratch, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([*apt, "update"], **quiet)
        subprocess.run([*apt, "source", "--download-only", "redis"], **quiet)
        (source,) = scratch.glob("redis_7.0.*.dsc")
        subprocess.run(["dpkg-source", "-x", source.name, "unpacked"], stderr=subprocess.DEVNULL, **quiet)
        unpacked = scratch / "unpacked"
        for tool in ("redis-cli", "redis-benchmark"):
            (unpacked / "src" / tool).symlink_to(f"/usr/bin/{tool}")
        # Before each file the suite forgets all functions: a server that has none need not.
        start = unpacked / "tests" / "support" / "server.tcl"
        start.write_text(start.read_text().replace("\n    r function flush\n", "\n    catch {r function flush}\n"))
        unpacked.rename(suite)
    return suite


def files_of(suite):
    listed = subprocess.run(
        ["tclsh", "tests/test_helper.tcl", "--list-tests"], cwd=suite, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


class Result:
    """What one file did: passed names, name and error of failed ones, and how it ended if not as it should."""

    def __init__(self):
        self.passed = collections.Counter()
        self.failed = []
        self.ended = None
        self.seconds = 0.0

    def read(self, output):
        """Takes the suite's output apart. A line that begins with no status belongs to the one before."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", output)
        for status, said in re.findall(r"^\[(\w+)\]: (.*(?:\n(?!\[\w+\]: |\[\d+/\d+ \w+\]: ).*)*)", text, re.M):
            first = said.splitlines()[0] if said else ""
            if status == "ok":
                self.passed[re.sub(r" \(\d+ ms\)$", "", first)] += 1
            elif status == "err":
                name = re.sub(r" in tests/\S+\.tcl$", "", first)
                # Details follow until the summary of the run.
                details = said.split("\n                   The End\n")[0].splitlines()[1:]
                self.failed.append((name, " ".join(line.strip() for line in details if line.strip())))
            elif status == "exception":
                self.ended = "ended by an error outside of its tests: " + " ".join(said.split())[:400]


def run_file(suite, name, port, options, log, limit):
    """Runs one file of the suite and returns what it did."""
    result, began = Result(), time.monotonic()
    command = ["tclsh", "tests/test_helper.tcl", "--host", HOST, "--port", str(port), "--single", name, *options]
    command += ["--baseport", str(next(SUITE_PORTS))]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w+", errors="replace") as output:
        # The suite starts a client of its own: both end together.
        process = subprocess.Popen(command, cwd=suite, stdout=output, stderr=output, start_new_session=True)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            result.ended = f"cut off after {limit:.0f} s"
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        ended = result.ended
        result.read(output.read())
        result.ended = ended or result.ended
    result.seconds = time.monotonic() - began
    return result


# -- Servers, each fit for `with`, with the port to ask


class Redis:
    """Debian's redis-server, fresh and in memory."""

    def __enter__(self):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(dir=parent())
        command = ["redis-server", "--port", str(self.port), "--bind", HOST, "--save", "", "--dir", self.folder.name]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return self
            except OSError:
                if time.monotonic() > until:
                    raise Trouble("redis-server does not start") from None
                time.sleep(0.02)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def died(self):
        return None if self.process.poll() is None else "redis-server ended"


class HyperCache(Cluster):
    """Nodes of our own, asked at the first one's proxy face."""

    def __init__(self, nodes):
        super().__init__(nodes, parent=parent())

    @property
    def port(self):
        return self.nodes[0].port("resp")

    def died(self):
        gone = [node for node in self.nodes if not node.running]
        return "\n".join(f"{node.name} ended:\n{node.last_words()}" for node in gone) or None


def parent():
    return str(MEMORY_BACKED) if MEMORY_BACKED.is_dir() else None


# -- Runs


def run(suite, names, server, mode, what, fatal, file_limit=FILE_LIMIT_S, jobs=1):
    """Runs files, so many at once and each on a fresh server; says what it does. `fatal` collects what makes it red."""
    options = OPTIONS + (["--cluster-mode"] if mode == "cluster" else [])
    waits = [] if what["name"].startswith("redis") else list(rows_of(LEFT_OUT, 2))
    expected, began = what["expected"], time.monotonic()

    def one(number, name):
        left = RUN_LIMIT_S - (time.monotonic() - began)
        if left < 10:
            fatal.append(f"the run took more than {RUN_LIMIT_S // 60} minutes; {name} did not run")
            return None
        log = cache_dir("redis-suite", "logs") / what["name"] / f"{name.replace('/', '_')}.log"
        with server() as running:
            skipped = [word for file, test in waits if file == name for word in ("--skiptest", test)]
            result = run_file(suite, name, running.port, options + skipped, log, min(file_limit, left))
            died = running.died()
        if died:
            fatal.append(f"{name}: {died}")
        of = f" of {expected[name]}" if name in expected else ""
        note = f"; {result.ended}" if result.ended else ""
        print(
            f"[{number}/{len(names)}] {name}: {sum(result.passed.values())}{of} passed ({result.seconds:.0f} s){note}",
            flush=True,
        )
        return result

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = dict(zip(names, pool.map(one, itertools.count(1), names)))
    return {name: result for name, result in results.items() if result}


def reference(suite, mode, again=False):
    """File -> Counter of the names that pass on Debian's redis-server. Run once and remembered."""
    kept = cache_dir("redis-suite") / f"reference-{mode}.json"
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    if kept.exists() and not again:
        remembered = json.loads(kept.read_text())
        if remembered["version"] == version and remembered["options"] == OPTIONS:
            return {name: collections.Counter(tests) for name, tests in remembered["files"].items()}
    print("redis-suite: Debian's redis-server first, to know which tests there are (some minutes, once)", flush=True)
    trouble = []
    what = {"name": f"redis-{mode}", "expected": {}}
    results = run(suite, files_of(suite), Redis, mode, what, trouble)
    if trouble:
        raise Trouble("\n".join(trouble))
    for name, result in results.items():
        for test, error in result.failed:
            print(f"  redis-server fails, too: {name}: {test}: {error[:200]}")
    files = {name: dict(result.passed) for name, result in results.items() if result.passed}
    kept.write_text(json.dumps({"version": version, "options": OPTIONS, "files": files}))
    print(f"redis-suite: Debian's redis-server passes {sum(sum(f.values()) for f in files.values())} tests", flush=True)
    return {name: collections.Counter(tests) for name, tests in files.items()}


def missing(expected, result):
    """Name and error of every test that passes on Redis and not here, in the reference's order."""
    errors = collections.defaultdict(list)
    for name, error in result.failed:
        errors[name].append(error)
    rows = []
    for name, count in expected.items():
        for _ in range(count - min(count, result.passed[name])):
            error = errors[name].pop(0) if errors[name] else f"not reached: the file {result.ended or 'left it out'}"
            rows.append((name, error))
    return rows


# -- What people edit


def rows_of(path, fields):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            row = [field.strip() for field in line.split("|", fields - 1)]
            if len(row) != fields:
                raise Trouble(f"{path}:{number}: {fields} fields separated by | are wanted")
            yield row


def star(pattern):
    """A pattern in which only * is special: names of tests are full of brackets."""
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.S)


class Reasons:
    """First match wins: file, then the test's name or, behind `error:`, what it failed with."""

    def __init__(self):
        self.rows = [(star(file), what, reason) for file, what, reason in rows_of(REASONS, 3)]
        self.rows = [
            (file, what.startswith("error:"), star(what.removeprefix("error:").strip()), reason)
            for file, what, reason in self.rows
        ]

    def of(self, file, test, error):
        for in_file, by_error, pattern, reason in self.rows:
            if in_file.fullmatch(file) and pattern.fullmatch(error if by_error else test):
                return reason
        return NO_REASON


def ratchet():
    """File -> how many tests must pass on one node and in a cluster."""
    floors = {}
    for file, node, cluster in rows_of(PASSED, 3):
        floors[file] = {"node": int(node), "cluster": int(cluster)}
    return floors


def raise_ratchet(mode, results):
    floors = ratchet()
    for name, result in results.items():
        row = floors.setdefault(name, {"node": 0, "cluster": 0})
        row[mode] = max(row[mode], sum(result.passed.values()))
    head = [line for line in PASSED.read_text().splitlines() if line.startswith("#")]
    width = max(map(len, floors), default=0)
    lines = [f"{name:{width}} | {row['node']:4} | {row['cluster']:4}" for name, row in sorted(floors.items())]
    PASSED.write_text("\n".join(head + lines) + "\n")


# -- The report

REPORT_HEAD = """# What of Redis' own test suite passes

Written by `scripts/redis-suite` and `scripts/redis-suite --cluster`: Redis 7.0's test suite (Debian's source package) in
its external mode, each file by itself against a fresh server. Left out are tests that need what only Redis itself has:
DEBUG, replication by SYNC, SAVE, several databases, the names of encodings, setting memory limits in the middle of a run.
*Of* counts what Debian's redis-server passes when run the same way. A test that passes there and not here is listed with
its reason, which a person wrote ([reasons.txt](../tests/redis-suite/reasons.txt)).
"""


def section(mode, expected, results, reasons):
    lines = [f"## {MODES[mode]}", ""]
    passed = sum(sum((expected[name] & result.passed).values()) for name, result in results.items())
    lines += [f"**{passed} of {sum(sum(tests.values()) for tests in expected.values())} tests pass.**", ""]
    lines += ["| file | passed | of |", "|---|--:|--:|"]
    for name, tests in expected.items():
        here = sum((tests & results[name].passed).values()) if name in results else 0
        lines.append(f"| {name} | {here} | {sum(tests.values())} |")
    by_reason = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
    for name, result in results.items():
        for test, error in missing(expected[name], result):
            by_reason[reasons.of(name, test, error)][name][test] += 1
    if by_reason:
        lines += ["", "### What does not pass"]
    for reason, files in sorted(by_reason.items(), key=lambda row: (row[0] == NO_REASON, row[0])):
        total = sum(sum(tests.values()) for tests in files.values())
        lines += ["", f"**{reason}** ({total})", ""]
        for name, tests in files.items():
            shown = "; ".join(f"`{test}`" + (f" ({n} times)" if n > 1 else "") for test, n in tests.items())
            lines.append(f"- {name}: {shown}")
    return "\n".join(lines)


def write_report(mode, text):
    """Replaces one mode's section and leaves the other's."""
    old = REPORT.read_text() if REPORT.exists() else ""
    parts = [REPORT_HEAD]
    for each in MODES:
        begin, end = f"<!-- {each} -->", f"<!-- end of {each} -->"
        kept = re.search(f"{re.escape(begin)}\n(.*?)\n{re.escape(end)}", old, re.S)
        body = text if each == mode else kept.group(1) if kept else f"## {MODES[each]}\n\nNot run yet."
        parts.append(f"{begin}\n{body}\n{end}\n")
    REPORT.write_text("\n".join(parts))


# -- One call


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", action="append", metavar="UNIT", help="only this file, such as unit/type/list")
    parser.add_argument("--cluster", action="store_true", help="three nodes, with the suite's --cluster-mode")
    parser.add_argument("--redis", action="store_true", help="Debian's redis-server instead: the reference")
    parser.add_argument("--limit", type=int, default=FILE_LIMIT_S, help=f"seconds a file may take ({FILE_LIMIT_S})")
    parser.add_argument("--jobs", type=int, default=1, help="files at once (1)")
    parser.add_argument("--held", action="store_true", help="only ask for what passed.txt says, and write nothing")
    parser.add_argument("--raise", dest="lift", action="store_true", help="write what passes now into passed.txt")
    return parser.parse_args()


def held(suite, mode, server, given):
    """Whether every file passes as many tests as passed.txt says: what is asked of each change. Writes nothing."""
    floors = {name: floor[mode] for name, floor in ratchet().items() if floor[mode]}
    wrong = []
    results = run(suite, list(floors), server, mode, {"name": mode, "expected": floors}, wrong, given.limit, given.jobs)
    passed = {name: sum(result.passed.values()) for name, result in results.items()}
    wrong += fallen(passed, floors)
    print(f"redis-suite: {sum(passed.values())} tests pass, {sum(floors.values())} must")
    return wrong


def fallen(passed, floors):
    return [
        f"{name}: {count} tests pass, {floors[name]} did before (tests/redis-suite/passed.txt)"
        for name, count in passed.items()
        if count < floors.get(name, 0)
    ]


def compared(suite, mode, server, given):
    """Everything that passes on Redis, and the report."""
    expected = reference(suite, mode)
    names = given.file or list(expected)
    unknown = [name for name in names if name not in expected]
    if unknown:
        raise Trouble(f"no such file, or no test of it can run from outside: {', '.join(unknown)}")
    wrong = []
    counts = {name: sum(tests.values()) for name, tests in expected.items()}
    what = {"name": "redis" if given.redis else mode, "expected": counts}
    results = run(suite, names, server, mode, what, wrong, given.limit, given.jobs)
    if not given.redis:
        floors = {name: floor[mode] for name, floor in ratchet().items()}
        wrong += fallen({name: sum(result.passed.values()) for name, result in results.items()}, floors)

    reasons, unexplained = Reasons(), 0
    for name, result in results.items():
        for test, error in missing(expected[name], result):
            reason = reasons.of(name, test, error)
            unexplained += reason == NO_REASON
            if given.file:
                print(f"\n  {test}\n    {error[:600]}\n    reason: {reason}")
    if not given.redis and not given.file:
        write_report(mode, section(mode, expected, results, reasons))
        print(f"redis-suite: wrote {REPORT.relative_to(CHECKOUT)}")
    if given.lift and not given.redis:
        raise_ratchet(mode, results)
    passed = sum(sum((expected[name] & result.passed).values()) for name, result in results.items())
    of = sum(counts[name] for name in names)
    print(f"redis-suite: {passed} of {of} tests pass, {unexplained} of the others have not been looked at yet")
    return wrong


def main():
    given = arguments()
    end_on_sigterm()
    mode = "cluster" if given.cluster else "node"
    suite = fetch()
    if given.redis and not given.file:
        reference(suite, mode, again=True)
        return 0
    count = 3 if given.cluster else 1
    server = Redis if given.redis else lambda: HyperCache(count)
    wrong = held(suite, mode, server, given) if given.held else compared(suite, mode, server, given)
    for line in wrong:
        print(f"redis-suite: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        sys.exit(f"redis-suite: {trouble}")
