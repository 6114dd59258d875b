"""Runs widely used programs, unmodified, against HyperCache, each checking what it gets.

Twice: against one node with one group, as a single Redis is used (`alone`), and against the proxy faces of three nodes with
several groups (`three`), for those programs whose keys can be kept in one slot or need not be. One line a program,
`ok NAME FACE (N checks, S s)` or `FAILED NAME FACE` and why; at last `N passed, N failed`. What cannot be installed has failed.
Packages are kept outside the checkout, so only the first run is slow. Names as arguments run these alone.
"""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parent / "clients"
sys.path.insert(0, str(HERE.parent / "harness"))

from cluster import Cluster, Trouble, cache_dir, end_on_sigterm, report  # noqa: E402
from packages import locked_node_modules, venv  # noqa: E402
from programs import checks_of  # noqa: E402

PROGRAM_WITHIN_S = 90
# Redlock's majority is over stores that know nothing of one another.
STORES_APART = 3


def python(program):
    def command():
        requirements = (HERE / "python" / "requirements.txt").read_text().split()
        return [venv("programs-python", *requirements), str(HERE / "python" / program)]

    return command


def node(program):
    """The packages' folder must be above the program, so the programs are copied there."""

    def command():
        folder = cache_dir("clients", "programs-node")
        locked_node_modules(HERE / "node", folder)
        for file in [CLIENTS / "node" / "checks.mjs", *(HERE / "node").glob("*.mjs")]:
            shutil.copy(file, folder)
        return ["node", str(folder / program)]

    return command


def ruby(program):
    """Sidekiq is the one that Debian packages: `scripts/packages programs` brings it."""

    def command():
        subprocess.run(["ruby", "-e", "require 'sidekiq'"], check=True)
        return ["ruby", str(HERE / "ruby" / program)]

    return command


BOTH = ("alone", "three")
# rq names its keys itself and joins several of them in one transaction: with several groups that is CROSSSLOT, as in any
# Redis Cluster. All others can be told a prefix with a hash tag, or use one key at a time.
ALONE = ("alone",)

PROGRAMS = {
    "celery": (python("celery_program.py"), BOTH),
    "rq": (python("rq_program.py"), ALONE),
    "django": (python("django_program.py"), BOTH),
    "flask": (python("flask_program.py"), BOTH),
    "redlock-py": (python("redlock_program.py"), BOTH),
    "bullmq": (node("bullmq.mjs"), BOTH),
    "redlock-js": (node("redlock.mjs"), BOTH),
    "rate-limiter-flexible": (node("rate-limiter-flexible.mjs"), BOTH),
    "connect-redis": (node("connect-redis.mjs"), BOTH),
    "socket.io": (node("socket.io.mjs"), BOTH),
    "sidekiq": (ruby("sidekiq_program.rb"), BOTH),
}


@contextlib.contextmanager
def served(face):
    """The clusters of a face, and the environment that tells programs of them.

    HC_PROXY: the ports of one store; several are several nodes of it. HC_APART: one port each of several stores, or of one.
    """
    with contextlib.ExitStack() as stack:
        if face == "alone":
            clusters = [stack.enter_context(Cluster(1)) for _ in range(STORES_APART)]
        else:
            clusters = [stack.enter_context(Cluster(3))]
        proxies = ",".join(str(node.port("resp")) for node in clusters[0].nodes)
        environment = {
            "HC_FACE": face,
            "HC_PROXY": proxies,
            "HC_CLUSTER": ",".join(str(node.port("cluster")) for node in clusters[0].nodes),
            "HC_APART": ",".join(str(cluster.nodes[0].port("resp")) for cluster in clusters),
            "PYTHONPATH": str(CLIENTS),
        }
        yield clusters, environment


def main(names):
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        sys.exit(f"programs: none is called {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    commands, failed, passed = {}, {}, 0
    # Installed before a cluster starts: it should not sit through downloads.
    for name in names or PROGRAMS:
        try:
            commands[name] = PROGRAMS[name][0]()
        except (OSError, subprocess.SubprocessError) as error:
            failed[name] = f"it cannot be installed: {error}"
    for face in BOTH:
        here = [name for name in commands if face in PROGRAMS[name][1]]
        if not here:
            continue
        with served(face) as (clusters, environment):
            for name in here:
                began = time.monotonic()
                try:
                    checks = checks_of(commands[name], environment, PROGRAM_WITHIN_S)
                    print(f"ok {name} {face} ({checks} checks, {time.monotonic() - began:.1f} s)", flush=True)
                    passed += 1
                except (OSError, subprocess.SubprocessError, Trouble) as error:
                    failed[f"{name} {face}"] = str(error)
            for server in (server for cluster in clusters for server in cluster.nodes):
                if not server.running:
                    failed[f"{server.name} {face}"] = f"it ended by itself:\n{server.last_words()}"
    return report(passed, failed)


if __name__ == "__main__":
    end_on_sigterm()
    sys.exit(main(sys.argv[1:]))
