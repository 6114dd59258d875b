"""What it costs to save a node's state and to restore it: CPU milliseconds a megabyte of images, the server's and the tool's
together, and the seconds until a node restored from the file answers its first read. What a bare copy of the file costs stands beside:
machines differ, and the same one from hour to hour. Prints the figures and judges nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import Cluster, Trouble, cpu_seconds, end_on_sigterm  # noqa: E402
from servers import cli, fill, table, verdict  # noqa: E402

BAR_MS, BAR_S_A_GB = 5.0, 30
# Snapshots are made when they are asked for. What makes one by itself is a log of this size.
NO_SNAPSHOTS = "persistence.snapshot_log_bytes=1TB"


def run(program, *arguments):
    """Its output, and the CPU seconds it took."""
    process = subprocess.Popen([str(program), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Trouble(f"{' '.join(map(str, arguments))} ended with {process.returncode}")
    return out, usage.ru_utime + usage.ru_stime


def settle(pid):
    """Waits until a server has done what filling it left to do: that belongs to the writes, not to what comes next."""
    spent, deadline = cpu_seconds(pid), time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(1)
        before, spent = spent, cpu_seconds(pid)
        if spent - before < 0.05:
            return
    raise Trouble("the server is busy a minute after the last write")


def save(cluster, ctl, file, options):
    """CPU seconds and seconds. The snapshot is made for it: a key was written since the last one."""
    pid, port = cluster.nodes[0].process.pid, cluster.nodes[0].port("resp")
    cli(port, "SET", "key:000000000000", "x" * options.value_bytes)
    settle(pid)
    began = time.monotonic()
    before = cpu_seconds(pid)
    _, cpu = run(ctl, "--endpoint", cluster.nodes[0].address("grpc"), "snapshot", "save", file)
    return cpu + cpu_seconds(pid) - before, time.monotonic() - began


def restore(ctl, file, options):
    """CPU seconds and seconds until the first read is answered by a new node."""
    cluster = Cluster(1, [NO_SNAPSHOTS], parent=options.dir)
    node = cluster.nodes[0]
    node.write_config()
    began = time.monotonic()
    try:
        _, cpu = run(ctl, "snapshot", "restore", file, "--config", node.file)
        node.start()
        cluster.wait_ready()
        found = cli(node.port("resp"), "STRLEN", f"key:{options.keys - 1:012d}").strip()
        took, cpu = time.monotonic() - began, cpu + cpu_seconds(node.process.pid)
        if found != str(options.value_bytes) or cli(node.port("resp"), "DBSIZE").strip() != str(options.keys):
            raise Trouble("what was restored is not what was saved")
        return cpu, took
    finally:
        cluster.stop()


def main():
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keys", type=int, default=3_300_000)
    parser.add_argument("--value-bytes", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", help="where the servers keep their files")
    options = parser.parse_args()
    rows = []
    with Cluster(1, [NO_SNAPSHOTS], parent=options.dir) as cluster:
        ctl = cluster.program.with_name("hypercachectl")
        fill(cluster.nodes[0].port("resp"), options.keys, options.value_bytes)
        for number in range(options.runs):
            file = cluster.folder / f"state-{number}"
            saving, saved_s = save(cluster, ctl, file, options)
            inspected, _ = run(ctl, "-o", "json", "snapshot", "inspect", file)
            mb = sum(group["bytes"] for group in json.loads(inspected)["groups"]) / 1e6
            copy = file.with_suffix(".copy")
            _, copying = run("cp", file, copy)
            copy.unlink()
            restoring, serving_s = restore(ctl, file, options)
            costs = [1000 * cpu / mb for cpu in (saving, restoring)]
            reached = verdict(max(costs) <= BAR_MS and serving_s / mb * 1000 < BAR_S_A_GB)
            rows.append([f"{number + 1}", f"{mb:.0f}", f"{file.stat().st_size / 1e6:.0f}", f"{costs[0]:.2f}", f"{saved_s:.1f}", f"{costs[1]:.2f}", f"{serving_s:.1f}", f"{1000 * copying / mb:.2f}", reached])
            file.unlink()
    head = ["run", "MB of images", "MB in the file", "saving, CPU ms a MB", "s", "restoring, CPU ms a MB", "s until a read is answered", "cp, CPU ms a MB"]
    print(table([*head, f"bars: {BAR_MS:.0f} ms each, {BAR_S_A_GB} s a GB"], rows))


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"snapshots: {trouble}")
