"""Values of 1 MB: 8 connections, 100 keys, at the leaders (reads at lease) beside Redis alone with appendfsync always."""

from cluster import Cluster
from loads import REDIS_OPTIONS, Load, alternate, fill, leaders, pids_of, read_at, redis_benchmark
from report import Bar, load_table
from servers import Redis, table

TITLE = "Large values"
BYTES, KEYS, SHAPE, FIRST = 1_000_000, 100, (8, 1), 40
REDIS, OURS = "Redis", "HyperCache, leaders"


def measure(bench):
    found = {}
    with Redis(REDIS_OPTIONS, parent=bench.folder) as redis, Cluster(3, parent=bench.folder) as cluster:
        read_at(cluster, "lease")
        at_redis = lambda test: redis_benchmark(redis.port, SHAPE, "-t", test, value_bytes=BYTES, keys=KEYS)  # noqa: E731
        at_leaders = lambda test: leaders(cluster, SHAPE, "-t", test, value_bytes=BYTES, keys=KEYS)  # noqa: E731
        for command in (at_redis("set"), at_leaders("set")):
            fill(command, 2 * KEYS)
        for test in ("set", "get"):
            compared = [Load(REDIS, [redis.pid], at_redis(test), first=FIRST), Load(OURS, pids_of(cluster), at_leaders(test), first=FIRST)]
            found[test.upper()] = alternate(compared, bench.scale, f"{test.upper()} of 1 MB")
    return found


def bars(found):
    ratio = lambda rows: rows[OURS]["rate"] / rows[REDIS]["rate"]  # noqa: E731
    return [Bar(f"{test} of 1 MB, bytes a second to Redis", ratio(rows), 0.5, at_least=True) for test, rows in found.items()]


def tell(found):
    moved = [[f"{test}, {name}", f"{row['rate'] * BYTES / 1e6:,.0f}"] for test, rows in found.items() for name, row in rows.items()]
    return f"{load_table(found)}\n\n{table(['', 'MB a second'], moved)}"
