"""redis-benchmark: that it runs through on both faces, and that what it wrote is there."""

import csv
import subprocess
import sys

from checks import Checks, cluster_ports, proxy_ports

check = Checks()
# A multiple of every pipeline length below: redis-benchmark rounds up to whole pipelines.
REQUESTS = 4800


def benchmark(port, *options):
    """Test name -> requests a second. Complains of anything it wrote to standard error."""
    command = ["redis-benchmark", "-p", str(port), "--csv", *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    check(f"{' '.join(options)}: no complaint", (ran.returncode, [x for x in ran.stderr.splitlines() if "rror" in x]), (0, []))
    rows = [row for row in csv.reader(ran.stdout.splitlines()) if len(row) > 2 and row[1] != "rps"]
    return {row[0]: float(row[1]) for row in rows}


def cli(port, *arguments):
    return subprocess.run(["redis-cli", "-p", str(port), *arguments], capture_output=True, text=True).stdout.strip()


proxy, face = proxy_ports()[0], cluster_ports()[0]
for options in (["-P", "16"], ["-P", "16", "-3"], ["-P", "1"]):
    cli(proxy, "FLUSHALL")
    rates = benchmark(proxy, "-t", "set,get,incr", "-n", str(REQUESTS), "-c", "20", "-d", "64", "-r", "1000", *options)
    check("all tests ran", sorted(name.split()[0] for name in rates), ["GET", "INCR", "SET"])
    check("all did something", min(rates.values()) > 0, True)
    check("the values are there", len(cli(proxy_ports()[-1], "GET", "key:000000000007")), 64)
    counters = cli(proxy, "MGET", *[f"counter:{n:012}" for n in range(1000)])
    check("no INCR was lost", sum(int(n) for n in counters.split()), REQUESTS)

rates = benchmark(face, "--cluster", "-t", "set,get", "-n", str(REQUESTS), "-c", "20", "-P", "16", "-d", "64", "-r", "1000")
check("cluster mode ran", sorted(name.split()[0] for name in rates), ["GET", "SET"])

sys.exit(check.done())
