"""Peers that do not speak Redis' protocol, as far as they are installed, and HyperCache with the same shape in the same rounds. Their load is made by
`examples/peers.rs`, HyperCache's by redis-benchmark at the leaders.

etcd: three nodes on this machine, its leader is asked over gRPC, each put on a majority's disks as ours is; 64-byte values, one connection a client.
memcached: one process, two threads, nothing on disk: GETs beside ours at `lease`."""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from cluster import HOST, Cluster, Trouble, free_port
from loads import FILLING, SHAPES, VALUE_BYTES, Figures, Load, alternate, fill, leaders, pids_of, program, read_at, say, shown
from report import load_table
from servers import listening, version_of

TITLE = "Peers"
READY_WITHIN_S = 30
ETCD_SHAPES = SHAPES[:2]
OURS = "HyperCache"


class PeerLoad:
    """examples/peers.rs; takes the place of a `Load`."""

    def __init__(self, name, pids, peer, address, shape, gets, keys):
        connections, pipeline = shape
        self.name, self.pids = name, pids
        self.command = [peer, "--address", address, "--connections", connections, "--pipeline", pipeline, "--keys", keys]
        self.command += ["--value-bytes", VALUE_BYTES, *(["--gets"] if gets else [])]

    def requests_for(self, seconds):
        """It counts by time."""
        return seconds

    def run(self, seconds):
        said = program("peers", [*self.command, "--seconds", seconds], self.pids)
        return Figures(said["rate"], *(said[f"{share}_us"] / 1000 for share in ("p50", "p99", "p999")), cpu_us=said["cpu_us"])


class Etcd:
    """Three nodes of etcd with what Debian configures."""

    def __init__(self, parent):
        self.folder = tempfile.TemporaryDirectory(prefix="etcd-", dir=parent)
        self.clients, peers = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
        everybody = ",".join(f"etcd-{number}=http://{HOST}:{port}" for number, port in enumerate(peers))
        self.processes = []
        for number, (client, peer) in enumerate(zip(self.clients, peers)):
            command = ["etcd", "--name", f"etcd-{number}", "--data-dir", f"{self.folder.name}/{number}", "--initial-cluster", everybody]
            for option, port in (("listen-client", client), ("advertise-client", client), ("listen-peer", peer), ("initial-advertise-peer", peer)):
                command += [f"--{option}-urls", f"http://{HOST}:{port}"]
            with open(f"{self.folder.name}/log-{number}", "wb") as log:
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def __enter__(self):
        until = time.monotonic() + READY_WITHIN_S
        while not all(self.status(port) for port in self.clients):
            if time.monotonic() > until or any(process.poll() is not None for process in self.processes):
                self.__exit__()
                raise Trouble("etcd does not start")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        self.folder.cleanup()

    def status(self, port):
        """What a node says of itself once it knows a leader."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/v3/maintenance/status", b"{}", timeout=1) as answer:
                said = json.load(answer)
                return said if said.get("leader", "0") != "0" else None
        except (OSError, urllib.error.URLError):
            return None

    @property
    def leader(self):
        for port in self.clients:
            said = self.status(port)
            if said and said["leader"] == said["header"]["member_id"]:
                return f"{HOST}:{port}"
        raise Trouble("etcd has no leader")

    @property
    def pids(self):
        return [process.pid for process in self.processes]


class Memcached:
    def __init__(self):
        self.port = free_port()
        command = ["memcached", "-l", HOST, "-p", str(self.port), "-t", "2", "-m", "1024", "-c", "4096", "-u", "nobody"]
        self.process = subprocess.Popen(command)

    def __enter__(self):
        return listening(self)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def measure(bench):
    found = {"skipped": [name for name in ("etcd", "memcached") if not shutil.which(name)]}
    for name in found["skipped"]:
        say(f"  SKIPPED: {name} is not installed (scripts/packages peers)")
    keys = bench.scale.keys // 10
    with Cluster(3, parent=bench.folder) as cluster:
        fill(leaders(cluster, FILLING, "-t", "set", keys=keys), keys)
        if "etcd" not in found["skipped"]:
            found["etcd"] = etcd(bench, cluster, keys)
        if "memcached" not in found["skipped"]:
            found["memcached"] = memcached(bench, cluster, keys)
    return found


def ours(cluster, shape, test, keys):
    return Load(OURS, pids_of(cluster), leaders(cluster, shape, "-t", test, keys=keys))


def etcd(bench, cluster, keys):
    # The usual name of the program's version, and what the shapes' connections do with it.
    found = {"version": version_of("etcd", r"etcd Version: (\S+)"), "rows": {}}
    read_at(cluster, "linearizable")
    with Etcd(bench.folder) as peer:
        for test, what in (("set", "durable put"), ("get", "linearizable get")):
            for shape in ETCD_SHAPES:
                asked = PeerLoad("etcd", peer.pids, "etcd", peer.leader, shape, test == "get", keys)
                found["rows"][f"{what}, {shown(shape)}"] = alternate([asked, ours(cluster, shape, test, keys)], bench.scale, f"{what} {shown(shape)}")
    return found


def memcached(bench, cluster, keys):
    found = {"version": version_of("memcached", r"memcached (\S+)"), "rows": {}}
    read_at(cluster, "lease")
    with Memcached() as peer:
        address, pids = f"{HOST}:{peer.port}", [peer.process.pid]
        PeerLoad("memcached", pids, "memcached", address, FILLING, False, keys).run(bench.scale.seconds)
        for shape in SHAPES:
            asked = PeerLoad("memcached", pids, "memcached", address, shape, True, keys)
            found["rows"][f"get, {shown(shape)}"] = alternate([asked, ours(cluster, shape, "get", keys)], bench.scale, f"get {shown(shape)}")
    return found


def bars(_):
    """They are there to compare with."""
    return []


def tell(found):
    pages = [f"{name} was not installed." for name in found["skipped"]]
    for name in ("etcd", "memcached"):
        if name in found:
            pages.append(f"### {name} {found[name]['version']}\n\n{load_table(found[name]['rows'])}")
    return "\n\n".join(pages)
