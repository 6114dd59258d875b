"""The HTTP door: 16 keep-alive connections of a program in Python, which is the slower side. One node leads everything; *forwarded* asks
another. At a fixed rate of 1,000 a second latency is counted from the moment a request was due."""

from cluster import HOST, Cluster
from loads import VALUE_BYTES, cpu, have_lead, pids_of, say
from report import Bar, number
from servers import fill, table
from web_load import ask

TITLE = "HTTP"
CONNECTIONS = 16
RATE = 1000
KEYS = 1000
SLOWEST, PACED = "GET forwarded", f"GET forwarded, {RATE:,} a second"


def get(number, nth):
    return f"GET /api/cache/key:{(31 * nth + number) % KEYS:012d} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def put(number, nth):
    body = f'{{"value":"{"x" * VALUE_BYTES}"}}'
    head = f"PUT /api/cache/key:{(31 * nth + number) % KEYS:012d} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def measure(bench):
    found, seconds = {}, 2 * bench.scale.seconds
    with Cluster(3, parent=bench.folder) as cluster:
        leader, other, _ = cluster.nodes
        have_lead(cluster, leader)
        fill(leader.port("resp"), KEYS, VALUE_BYTES)
        pids = pids_of(cluster)
        for name, node, request, rate in (
            ("GET at the leader", leader, get, None),
            (SLOWEST, other, get, None),
            ("PUT at the leader", leader, put, None),
            ("PUT forwarded", other, put, None),
            (PACED, other, get, RATE),
        ):
            began = cpu(pids)
            found[name] = ask(node.port("http"), request, CONNECTIONS, seconds, rate)
            found[name]["cpu_us"] = 1e6 * (cpu(pids) - began) / found[name]["count"]
            say(f"  {name}: {found[name]['rate']:,.0f}/s, p99 {found[name]['p99_ms']:.2f} ms, {found[name]['cpu_us']:.0f} us CPU")
    return found


def bars(found):
    return [
        Bar("HTTP GET at the leader, a second", found["GET at the leader"]["rate"], RATE, at_least=True),
        Bar("HTTP GET forwarded, a second", found[SLOWEST]["rate"], RATE, at_least=True),
        Bar(f"HTTP GET forwarded at {RATE:,} a second, p99", found[PACED]["p99_ms"], 50, " ms"),
    ]


def tell(found):
    figures = ("rate", "p50_ms", "p99_ms", "p999_ms", "cpu_us")
    rows = [[name, *(number(each[figure]) for figure in figures)] for name, each in found.items()]
    return table(["", "a second", "p50 ms", "p99 ms", "p99.9 ms", "CPU us"], rows)
