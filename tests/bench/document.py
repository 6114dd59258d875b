"""docs/benchmarks.md and its plots, from what the parts found (docs/benchmarks/*.json). Nothing is measured here: the same findings give the same
document."""

import json

import plots
import report
from loads import REDIS_OPTIONS, SHAPES, VALUE_BYTES, shown
from parts import PARTS, latency, shapes
from servers import table


class Folder:
    """docs/, or another that takes its place."""

    def __init__(self, folder):
        self.document, self.findings = folder / "benchmarks.md", folder / "benchmarks"
        self.findings.mkdir(parents=True, exist_ok=True)

    def keep(self, part, finding):
        (self.findings / f"{part}.json").write_text(json.dumps(finding, indent=1) + "\n")

    def kept(self):
        files = {part: self.findings / f"{part}.json" for part in PARTS}
        return {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}

    def write(self):
        kept = self.kept()
        drawings = draw({part: finding["found"] for part, finding in kept.items()})
        for name, drawing in drawings.items():
            (self.findings / f"{name}.svg").write_text(drawing)
        self.document.write_text(document(kept, drawings))


def document(kept, drawings):
    found = {part: finding["found"] for part, finding in kept.items()}
    pages = [HEAD]
    if "shapes" in found:
        pages.append(f"## What was demanded\n\n{INTRODUCTION}\n\n{shapes.demands(found['shapes'])}")
    pages += [f"![{title(drawing)}](benchmarks/{name}.svg)" for name, drawing in drawings.items()]
    bars = [bar for part in found for bar in PARTS[part].bars(found[part])]
    if bars:
        pages.append(f"## Other demands\n\n{report.bars(bars)}")
    pages.append(f"## When and where\n\n{MEASURED}\n\n{runs(kept)}")
    pages += [page(part, found[part]) for part in found]
    missing = [part for part in PARTS if part not in found]
    if missing:
        pages.append(f"Not measured yet: {', '.join(missing)}.")
    pages.append(COMMANDS)
    return "\n\n".join(pages) + "\n"


def page(part, found):
    module = PARTS[part]
    return f"## {module.TITLE}\n\n{module.__doc__.strip()}\n\n{module.tell(found)}"


def title(drawing):
    return drawing.split("<title>")[1].split("</title>")[0]


def runs(kept):
    rows = []
    for part, finding in kept.items():
        rounds = f"{finding['rounds']} of {finding['seconds']} s" + (" (--quick)" if finding["quick"] else "")
        where = [finding[what] for what in ("date", "machine", "hypercache", "redis")]
        rows.append([part, *where, rounds, f"{finding['busy']:.1f}", f"{finding['took']:.0f} s"])
    return table(["part", "date", "machine", "HyperCache", "Redis", "rounds", "load average before", "took"], rows)


def draw(found):
    """Name -> plot, of what was found."""
    drawn = {}
    if "shapes" in found:
        drawn["cpu"] = of_shapes(found["shapes"], "cpu_us", "CPU time an operation, all nodes", "microseconds")
        drawn["rate"] = of_shapes(found["shapes"], "rate", "Throughput", "operations a second")
    if "latency" in found:
        groups = {each["name"]: [each[ms] for ms in ("p50_ms", "p99_ms", "p999_ms")] for each in found["latency"]}
        drawn["latency"] = plots.grouped(latency.TITLE, "milliseconds", groups, ["p50", "p99", "p99.9"])
    return drawn


def of_shapes(found, figure, name, unit):
    groups = {}
    for test, ours in (("SET", shapes.SET), ("GET", shapes.led("lease"))):
        for shape in map(shown, SHAPES):
            rows = found[test][shape]
            limit = shapes.FLOOR if test == "SET" else shapes.ECHO
            value = lambda row: rows[row][figure] if row in rows else None  # noqa: E731, B023
            groups[f"{test}, {shape}"] = [value(ours), value(shapes.REDIS), value(limit), value(shapes.VALKEY)]
    names = ["HyperCache, 3 nodes (GET: lease)", "Redis alone", "limit (floor, echo)", "Valkey alone"]
    used = len(names) if any(values[-1] for values in groups.values()) else len(names) - 1
    return plots.grouped(f"{name}: durable SET and GET", unit, {name: values[:used] for name, values in groups.items()}, names[:used])


HEAD = """# Benchmarks

Written by `scripts/bench`; do not edit. What it does is told in `tests/bench/bench.py`, what was found is kept as data in `docs/benchmarks/`."""

INTRODUCTION = f"""Ratios of medians, measured by turns in the same run: of CPU time an operation (user and system, all server processes; all three nodes of ours) or of throughput.
{VALUE_BYTES}-byte values. In brackets what is demanded. *Known*: what others were measured to need, to the same, on another day.
What stands in the way of what is missed, and what was tried: [internals/speed.md](internals/speed.md)."""

MEASURED = f"""Servers and load share the machine. A load average above about 0.5 before a part says that others used cores and disk too: then figures are low, and ratios are only as
good as the spread, (max - min) / median, is small. HyperCache has three nodes, 8 groups and `storage.sync: always` unless a part says otherwise; Redis is alone, with
`{' '.join(repr(o) if not o else o for o in REDIS_OPTIONS)}`. In the tables below *to the first* is the ratio to the first line of the same group."""

COMMANDS = f"""## Commands

```
scripts/bench --only PART                                                                    one part again
redis-server {' '.join(repr(o) if not o else o for o in REDIS_OPTIONS)}
hypercache server --config NODE.yaml                                                         as `hypercache demo` configures them
redis-benchmark -p REDIS -c C -P P -n N -d {VALUE_BYTES} -r KEYS -t set|get
redis-benchmark -p 6479 --cluster -c C -P P -n N -d {VALUE_BYTES} -r KEYS/NODES -t set|get           leaders: so many keys in a slot of each node
redis-benchmark -p 6379 -c C -P P -n N -d {VALUE_BYTES} -r KEYS GET 'fwd:{{TAG}}:__rand_int__'         forwarded, at the leader
CONFIG SET consistency-level LEVEL                                                           on every node, before reads at another level
load --address NODE --connections C --pipeline P --closed --gets SHARE [--zipf SKEW]         a closed loop
load --address NODE --connections C --pipeline P --rate RATE --gets SHARE                    an open loop
peers etcd|memcached --address ADDRESS --connections C --pipeline P [--gets]
```

N is as many as a round takes. Before the first load each keyspace is filled with twice as many random SETs as it has keys, so that 86 % of them and more are there."""
