"""A real HyperCache cluster on loopback, for whoever drives it from outside: one process a node, configured as
`hypercache demo` does, but owned here, so that a test may kill, stop and start each node and read its CPU time.

Knows nothing of the server's code. Nothing outlives `Cluster.stop`, which `with` calls.
"""

import binascii
import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SLOTS = 16384
HOST = "127.0.0.1"

# A cluster has a block of ports of its own: one that is held for as long as the block is used, then those of each node.
# Blocks do not overlap, so clusters that start at the same time never take each other's ports. They end below those of
# Redis' suite (tests/redis-suite/suite.py), and those below what Rust's tests take (tests/cluster/mod.rs).
DOORS = ("resp", "cluster", "http", "grpc", "peer", "gossip")
NODES_AT_MOST = 10
BLOCKS = range(9_300, 12_000 - 1 - NODES_AT_MOST * len(DOORS), 1 + NODES_AT_MOST * len(DOORS))
READY_WITHIN_S = 30
STOP_WITHIN_S = 15


def end_on_sigterm():
    """Makes SIGTERM an exit like any other, so that `with` stops what was started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class Trouble(Exception):
    """The cluster did not do what a driver needs before it can check anything."""


def cache_dir(*parts):
    """A folder outside the checkout that survives a fresh clone."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root.joinpath("hypercache", *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def binary():
    """The program under test: $HYPERCACHE_BIN, or what cargo builds in release."""
    given = os.environ.get("HYPERCACHE_BIN")
    if given:
        if not os.access(given, os.X_OK):
            raise Trouble(f"HYPERCACHE_BIN: {given} is no program")
        return Path(given)
    return built("--bins") / "hypercache"


def example(name):
    """A program of `examples/`: beside $HYPERCACHE_BIN, or what cargo builds in release."""
    given = os.environ.get("HYPERCACHE_BIN")
    return (Path(given).parent if given else built("--example", name)) / "examples" / name


def built(*what):
    """Has cargo build that in release, and says where it is."""
    target = os.environ.get("CARGO_TARGET_DIR") or str(cache_dir("target"))
    command = ["cargo", "build", "--release", "--quiet", *what]
    subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "CARGO_TARGET_DIR": target}, check=True)
    return Path(target) / "release"


def report(passed, failed):
    """Says how many passed, and of those that failed why, by their names; the exit code."""
    for name, why in failed.items():
        print(f"FAILED {name}: {why}")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


def free_port():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return taken.getsockname()[1]


def listening(port):
    """A socket that holds the port. A port of a connection that has ended is free: servers take it, too."""
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, port))
        held.listen()
    except OSError:
        held.close()
        raise
    return held


def claim_ports(nodes):
    """A block in which every port of so many nodes is free: the socket that claims it, and the first node's first port."""
    for block in random.sample(BLOCKS, len(BLOCKS)):
        try:
            claim = listening(block)
        except OSError:
            continue
        try:
            for port in range(block + 1, block + 1 + nodes * len(DOORS)):
                listening(port).close()
        except OSError:
            claim.close()
            continue
        return claim, block + 1
    raise Trouble(f"no block of ports is free between {BLOCKS.start} and {BLOCKS.stop}")


@functools.cache
def tags():
    """Slot -> a hash tag in it, for every slot. The slot of a key is its CRC16 (XMODEM) modulo their number."""
    found = {}
    for number in itertools.count():
        found.setdefault(binascii.crc_hqx(b"%d" % number, 0) % SLOTS, str(number))
        if len(found) == SLOTS:
            return found


def tag_in(slot):
    return tags()[slot]


def cpu_seconds(pid):
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024


class Node:
    """One node's files, ports and, while it runs, its process."""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.number = number
        self.name = f"node-{number}"
        self.file = cluster.folder / f"{self.name}.yaml"
        self.folder = cluster.folder / self.name
        self.process = None

    def port(self, door):
        return self.cluster.first_port + (self.number - 1) * len(DOORS) + DOORS.index(door)

    def address(self, door):
        return f"{HOST}:{self.port(door)}"

    def write_config(self):
        seeds = ", ".join(node.address("peer") for node in self.cluster.nodes)
        self.folder.mkdir(parents=True)
        self.file.write_text(
            f"node:\n  id: {self.name}\n  bind_addr: {self.address('peer')}\n"
            f"  gossip_addr: {self.address('gossip')}\n  data_dir: {json.dumps(str(self.folder / 'data'))}\n"
            f"server:\n  resp_addr: {self.address('resp')}\n  cluster_addr: {self.address('cluster')}\n"
            f"  http_addr: {self.address('http')}\n  grpc_addr: {self.address('grpc')}\n  workers: {self.cluster.workers}\n"
            f"cluster:\n  seeds: [{seeds}]\n"
        )

    def start(self, join=False):
        """With `join` it founds no cluster on an empty directory, but waits to be added to one."""
        command = [str(self.cluster.program), "server", "--config", str(self.file), *(["--join"] if join else [])]
        for setting in self.cluster.settings:
            command += ["--set", setting]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.process.wait()

    def terminate(self):
        """An orderly stop; returns the exit code."""
        self.send(signal.SIGTERM)
        return self.process.wait(STOP_WITHIN_S)

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def last_words(self):
        text = (self.folder / "log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-15:])


class Cluster:
    """`with Cluster(3) as cluster:` serves, and is gone afterwards, its files with it unless `keep`."""

    def __init__(self, count=3, settings=(), keep=False, parent=None, room=None, ready_within=READY_WITHIN_S):
        """With `room` for more nodes than the founders, which `newcomer` gives."""
        self.ready_within = ready_within
        self.program = binary()
        self.settings = list(settings)
        self.keep = keep
        self.folder = Path(tempfile.mkdtemp(prefix="hypercache-", dir=parent))
        self.claim, self.first_port = claim_ports(room or count)
        # Of each node: its share of this machine's cores, as in a demo.
        self.workers = max(1, (os.cpu_count() or 1) // count)
        self.nodes = [Node(self, number) for number in range(1, count + 1)]

    def __enter__(self):
        try:
            for node in self.nodes:
                node.write_config()
                node.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def newcomer(self):
        """One more node, with an empty directory and a configuration."""
        node = Node(self, len(self.nodes) + 1)
        node.write_config()
        self.nodes.append(node)
        return node

    def stop(self):
        for node in self.nodes:
            if node.running:
                node.send(signal.SIGTERM)
        for node in self.nodes:
            if node.process is None:
                continue
            try:
                node.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                node.kill()
        self.claim.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def wait_ready(self):
        """Until every running node says that all groups serve."""
        until = time.monotonic() + self.ready_within
        for node in self.nodes:
            while node.running and not self.ready(node):
                if time.monotonic() > until:
                    raise Trouble(f"{node.name} is not ready after {self.ready_within} s:\n{node.last_words()}")
                time.sleep(0.02)
            if node.process is not None and not node.running:
                raise Trouble(f"{node.name} ended by itself:\n{node.last_words()}")

    @staticmethod
    def ready(node):
        try:
            with socket.create_connection((HOST, node.port("http")), 1) as door:
                door.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                ready = door.recv(64).split(b" ")[1:2] == [b"200"]
            # The doors of clients open last of all.
            socket.create_connection((HOST, node.port("resp")), 1).close()
            return ready
        except OSError:
            return False

    def status(self):
        """What `hypercachectl status -o json` says, asked of a node that runs."""
        program = self.program.with_name("hypercachectl")
        for node in (node for node in self.nodes if node.running):
            asked = subprocess.run(
                [str(program), "--endpoint", node.address("grpc"), "-o", "json", "--timeout", "3", "status"],
                capture_output=True,
                text=True,
            )
            if asked.returncode == 0:
                return json.loads(asked.stdout)
        raise Trouble("no node tells its status")

    def leaders(self):
        """Group number -> the node that leads it, groups without a leader left out."""
        return {
            group["id"]: self.nodes[group["leader"] - 1] for group in self.status()["groups"] if group["leader"]
        }

    def cpu_seconds(self):
        return sum(cpu_seconds(node.process.pid) for node in self.nodes if node.running)
