"""Runs real, unmodified Redis clients against a cluster of its own, each checking what it gets.

One line a client, `ok NAME (N checks)` or `FAILED NAME` and why; at last `N passed, N failed`. What cannot be installed has
failed. Packages are kept outside the checkout, so only the first run is slow. Names as arguments run these alone.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

from cluster import Cluster, Trouble, cache_dir, end_on_sigterm, report  # noqa: E402
from packages import venv  # noqa: E402
from programs import checks_of  # noqa: E402

CLIENT_WITHIN_S = 180
NODE_PACKAGES = ["redis", "ioredis"]


def python(name, requirement, program):
    return lambda: [venv(name, requirement), str(HERE / program)]


def plain(program):
    return lambda: [sys.executable, str(HERE / program)]


def node(program):
    """The packages' folder must be above the program, so the programs are copied there."""

    def command():
        folder = cache_dir("clients", "node")
        if not all((folder / "node_modules" / package / "package.json").exists() for package in NODE_PACKAGES):
            shutil.copy(HERE / "node" / "package.json", folder)
            subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True)
        for file in (HERE / "node").glob("*.mjs"):
            shutil.copy(file, folder)
        return ["node", str(folder / program)]

    return command


def rust():
    target = cache_dir("clients", "redis-rs")
    manifest = str(HERE / "redis-rs" / "Cargo.toml")
    built = ["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", str(target)]
    subprocess.run(built, check=True)
    return [str(target / "release" / "redis-rs-client")]


def c():
    program = cache_dir("clients", "c") / "hiredis"
    subprocess.run(["cc", "-O1", "-Wall", "-o", str(program), str(HERE / "hiredis.c"), "-lhiredis"], check=True)
    return [str(program)]


def go():
    """Debian ships Go libraries as sources under /usr/share/gocode, for builds without modules."""
    folder = cache_dir("clients", "go")
    settings = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache"), "CGO_ENABLED": "0"}
    built = ["go", "build", "-o", str(folder / "redigo"), str(HERE / "redigo.go")]
    subprocess.run(built, env={**os.environ, **settings}, check=True)
    return [str(folder / "redigo")]


CLIENTS = {
    "redis-cli": plain("redis_cli.py"),
    "redis-benchmark": plain("redis_benchmark.py"),
    "redis-py-4.6": python("redis-py-4.6", "redis==4.6.*", "redis_py.py"),
    "redis-py-latest": python("redis-py-latest", "redis>=8", "redis_py.py"),
    "redis-py-cluster": python("redis-py-latest", "redis>=8", "redis_py_cluster.py"),
    "node-redis": node("node-redis.mjs"),
    "ioredis": node("ioredis.mjs"),
    "ioredis-cluster": node("ioredis-cluster.mjs"),
    "redis-rs": rust,
    "hiredis": c,
    "redigo": go,
}


def run(command, cluster):
    """The number of checks, or why it failed."""
    ports = {name: ",".join(str(node.port(door)) for node in cluster.nodes) for name, door in (("HC_PROXY", "resp"), ("HC_CLUSTER", "cluster"))}
    return checks_of(command, ports, CLIENT_WITHIN_S)


def main(names):
    unknown = [name for name in names if name not in CLIENTS]
    if unknown:
        sys.exit(f"clients: no client is called {', '.join(unknown)}; there are {', '.join(CLIENTS)}")
    commands, failed, passed = {}, {}, 0
    # Installed before the cluster starts: it should not sit through downloads.
    for name in names or CLIENTS:
        try:
            commands[name] = CLIENTS[name]()
        except (OSError, subprocess.SubprocessError) as error:
            failed[name] = f"it cannot be installed: {error}"
    with Cluster(3) as cluster:
        for name, command in commands.items():
            try:
                print(f"ok {name} ({run(command, cluster)} checks)", flush=True)
                passed += 1
            except (OSError, subprocess.SubprocessError, Trouble) as error:
                failed[name] = str(error)
        for node in cluster.nodes:
            if not node.running:
                failed[node.name] = f"it ended by itself:\n{node.last_words()}"
    return report(passed, failed)


if __name__ == "__main__":
    end_on_sigterm()
    sys.exit(main(sys.argv[1:]))
