"""The main job on real input: a web trace replayed as a look-aside cache through all three nodes, while the leader of a
group is killed and another node restarted, and every reply checked against a model.

A request is a GET; on a miss the value is "computed" and SET with a TTL. A key belongs to one thread, so the trace's order
of requests to it is kept. No eviction is configured: an entry may go only by its TTL. Ends with an error on any answer
that the model does not allow, and when a fault was not in place or an operation found no answer.
"""

import argparse
import binascii
import itertools
import lzma
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, HOST, Cluster, Trouble, end_on_sigterm, tag_in  # noqa: E402
from packages import run_in  # noqa: E402
from servers import slots_led  # noqa: E402

if __name__ == "__main__":
    run_in("redis-py-latest", "redis>=8")

import redis  # noqa: E402
from redis.backoff import NoBackoff  # noqa: E402
from redis.retry import Retry  # noqa: E402

from model import Key, Violation, Write  # noqa: E402

THREADS = 12
# A quarter of the keys is short-lived, so that expiry is seen; the others outlive the run, so that loss is seen.
TTL_SHORT_S, TTL_LONG_S = 4, 600
VALUE_BYTES_MAX = 1024
# Above the server's request_timeout: an answer comes, or the connection is of no more use.
ANSWER_WITHIN_S = 8
# One operation, its retries included.
OPERATION_WITHIN_S = 30
PAUSE_BEFORE_RETRY_S = 0.02
DEAD_FOR_S = 2
# Refusals that say "not applied"; anything else that is no answer leaves a SET uncertain.
NOT_APPLIED = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.AskError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.OutOfMemoryError,
)


def spread(key):
    """A number that has nothing to do with the key's own order."""
    return binascii.crc32(key.to_bytes(8, "little", signed=True))


def ttl_of(key):
    return TTL_SHORT_S if spread(key) % 4 == 0 else TTL_LONG_S


class Connections:
    """A connection to every node, opened when needed. The next operation goes through the next node."""

    def __init__(self, cluster):
        # No retry behind our back: a SET sent twice could not be told from one sent once.
        self.pools = {
            node.port("resp"): redis.ConnectionPool(
                host=HOST, port=node.port("resp"), socket_timeout=ANSWER_WITHIN_S, retry=Retry(NoBackoff(), 0)
            )
            for node in cluster.nodes
        }
        self.turn = itertools.cycle(self.pools)

    def call(self, port, *arguments):
        """As redis-py's own `execute_command`, but raises OSError if it was certainly not sent."""
        pool = self.pools[port]
        try:
            # Opens one if there is none, or if the one there is was closed meanwhile.
            connection = pool.get_connection()
        except redis.RedisError as error:
            raise OSError(str(error)) from error
        try:
            connection.send_command(*arguments)
            return connection.read_response()
        except (redis.ConnectionError, redis.TimeoutError):
            connection.disconnect()
            raise
        finally:
            pool.release(connection)


class Worker(threading.Thread):
    """Replays the requests of its keys, in the trace's order."""

    def __init__(self, replay, requests):
        super().__init__(daemon=True)
        self.replay, self.requests = replay, requests
        self.connections = Connections(replay.cluster)
        self.keys, self.sequence = {}, 0
        self.counts, self.reads_s, self.writes_s, self.wrong = Counter(), [], [], []

    def run(self):
        try:
            for passed in itertools.count():
                for key in self.requests:
                    self.request(key)
                    self.replay.progress[self.ident] = self.replay.progress.get(self.ident, 0) + 1
                    if passed and self.replay.over.is_set():
                        break
                # A short slice begins again until the faults are over: they must meet traffic.
                if self.replay.over.is_set():
                    return
        except Exception as error:
            self.wrong.append(f"a worker ended: {type(error).__name__}: {error}")

    def request(self, key):
        state = self.keys.setdefault(key, Key())
        self.counts["requests"] += 1
        if self.read(key, state) is not None:
            self.counts["hits"] += 1
            return
        self.write(key, state)

    def read(self, key, state):
        value, sent, received = self.until_answered(self.reads_s, "GET", f"web:{key}")
        try:
            if value is None:
                state.miss(sent, received)
            else:
                state.hit(value, sent, received)
        except Violation as violation:
            self.wrong.append(f"key {key}: {violation}")
            # Go on from what is there, so that one loss is told once.
            state.possible = [] if value is None else [Write(value, ttl_of(key), sent, received, True)]
        return value

    def until_answered(self, latencies, *arguments):
        """A read may be repeated until it is answered. Returns the answer and when that attempt began and ended."""
        began = time.monotonic()
        while True:
            sent = time.monotonic()
            try:
                answer = self.connections.call(next(self.connections.turn), *arguments)
                received = time.monotonic()
                latencies.append(received - began)
                return answer, sent, received
            except (OSError, redis.RedisError) as error:
                self.note(error, "read")
                if sent - began > OPERATION_WITHIN_S:
                    raise Trouble(f"{arguments[0]} found no answer in {OPERATION_WITHIN_S} s: {error}") from error
            time.sleep(PAUSE_BEFORE_RETRY_S)

    def write(self, key, state):
        """SET until it is known to be done, or its fate is unknown. Every attempt has a value of its own."""
        began, ttl = time.monotonic(), ttl_of(key)
        while True:
            self.sequence += 1
            value = f"{key}/{self.ident}/{self.sequence}/".encode()
            value += b"x" * (binascii.crc32(value) % (VALUE_BYTES_MAX - len(value)))
            sent = time.monotonic()
            try:
                self.connections.call(next(self.connections.turn), "SET", f"web:{key}", value, "EX", ttl)
                done = time.monotonic()
                self.writes_s.append(done - began)
                self.counts["sets"] += 1
                return state.acknowledged(Write(value, ttl, sent, done, True))
            except (OSError, redis.RedisError) as error:
                not_applied = self.note(error, "write")
                if not not_applied:
                    state.uncertain(Write(value, ttl, sent, time.monotonic(), False))
                    return
                if sent - began > OPERATION_WITHIN_S:
                    raise Trouble(f"SET found no answer in {OPERATION_WITHIN_S} s: {error}") from error
            time.sleep(PAUSE_BEFORE_RETRY_S)

    def note(self, error, kind):
        """Counts what was no answer; true if it says that nothing happened."""
        not_applied = not isinstance(error, redis.RedisError) or isinstance(error, NOT_APPLIED) or str(error).startswith("THROTTLED")
        if not isinstance(error, redis.RedisError):
            what = "node was down, next one taken"
        elif isinstance(error, redis.ResponseError):
            what = f"{kind} {'refused' if not_applied else 'uncertain'}, {type(error).__name__}: {error}"
        else:
            what = f"{kind} broken off, {type(error).__name__}"
        self.counts[f"{self.replay.phase}: {what}"] += 1
        return not_applied


class Replay:
    def __init__(self, cluster, keys):
        self.cluster = cluster
        self.over = threading.Event()
        self.phase = "calm"
        self.progress = {}
        self.workers = [Worker(self, keys_of) for keys_of in shared_out(keys)]
        self.requests = len(keys)
        self.failover_s, self.wrong = [], []

    def run(self):
        for worker in self.workers:
            worker.start()
        try:
            self.reach(1 / 3)
            victim = self.kill_a_leader()
            self.reach(2 / 3)
            self.restart_another(victim)
        finally:
            self.over.set()
            for worker in self.workers:
                worker.join()

    def done(self):
        return sum(self.progress.values())

    def reach(self, share):
        while self.done() < share * self.requests and any(worker.is_alive() for worker in self.workers):
            time.sleep(0.01)

    def kill_a_leader(self):
        group, victim = max(self.cluster.leaders().items(), key=lambda pair: pair[0])
        keys = keys_led_by(victim)
        self.phase, before = "kill", self.done()
        killed = time.monotonic()
        victim.kill()
        print(f"killed {victim.name}, leader of group {group}, after {before} requests", flush=True)
        probes = [threading.Thread(target=self.probe, args=(key, victim, killed)) for key in keys]
        for probe in probes:
            probe.start()
        for probe in probes:
            probe.join()
        time.sleep(DEAD_FOR_S)
        self.served_since("the leader was killed", before)
        back = time.monotonic()
        victim.start()
        self.cluster.wait_ready()
        print(f"started {victim.name} again: ready after {time.monotonic() - back:.2f} s", flush=True)
        self.phase = "calm"
        return victim

    def probe(self, key, victim, killed):
        """How long until a group that the dead node led takes a write again."""
        port = next(node for node in self.cluster.nodes if node is not victim).port("resp")
        connections = Connections(self.cluster)
        while time.monotonic() - killed < OPERATION_WITHIN_S:
            try:
                connections.call(port, "SET", key, "x")
                return self.failover_s.append(time.monotonic() - killed)
            except (OSError, redis.RedisError):
                time.sleep(PAUSE_BEFORE_RETRY_S)
        self.wrong.append(f"a group took no write for {OPERATION_WITHIN_S} s after its leader was killed")

    def restart_another(self, victim):
        node = next(node for node in self.cluster.nodes if node is not victim)
        self.phase, before = "restart", self.done()
        began = time.monotonic()
        code = node.terminate()
        if code != 0:
            self.wrong.append(f"{node.name} ended with {code} on SIGTERM")
        print(f"stopped {node.name} after {before} requests: {time.monotonic() - began:.2f} s, exit code {code}", flush=True)
        time.sleep(DEAD_FOR_S)
        self.served_since("a node was stopped", before)
        back = time.monotonic()
        node.start()
        self.cluster.wait_ready()
        print(f"started {node.name} again: ready after {time.monotonic() - back:.2f} s", flush=True)
        self.phase = "calm"

    def served_since(self, what, before):
        if self.done() == before:
            raise Trouble(f"nothing was served since {what}")

    def plant(self):
        """Loses one entry and changes another behind the model's back: proof that the checks see it."""
        alive = [key for worker in self.workers for key, state in worker.keys.items() if ttl_of(key) == TTL_LONG_S]
        alive = [key for key in alive if all(w.certain for w in self.state(key).possible) and self.state(key).possible]
        client = redis.Redis(host=HOST, port=self.cluster.nodes[0].port("resp"))
        client.delete(f"web:{alive[0]}")
        client.set(f"web:{alive[1]}", "planted")

    def state(self, key):
        return next(worker.keys[key] for worker in self.workers if key in worker.keys)

    def read_all(self):
        """Every key once more, by whoever worked on it, through the next node."""
        for worker in self.workers:
            for key, state in worker.keys.items():
                worker.read(key, state)


def shared_out(keys):
    """A list a thread. A key is always the same thread's, whatever its TTL, which goes by the number's lowest bits."""
    lists = [array("i") for _ in range(THREADS)]
    for key in keys:
        lists[spread(key) // 4 % THREADS].append(key)
    return [one for one in lists if one]


def keys_led_by(node):
    """A key in each range of slots that the node leads, as a cluster client finds it."""
    starts = sorted(slots_led(node.cluster, node)[node])
    starts = starts[:: max(1, len(starts) // 16)]
    return [f"probe:{{{tag_in(slot)}}}" for slot in starts]


def percentiles(seconds):
    ordered = sorted(seconds) or [0.0]
    at = lambda share: 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return f"p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, max {at(1):.0f} ms ({len(seconds)})"


def replicas_agree(cluster):
    program = str(cluster.program.with_name("hypercachectl"))
    asked = subprocess.run([program, "--endpoint", cluster.nodes[0].address("grpc"), "verify"], capture_output=True, text=True)
    return asked.returncode == 0, (asked.stdout + asked.stderr).strip()


def report(replay, seconds):
    counts = sum((worker.counts for worker in replay.workers), Counter())
    requests, hits = counts.pop("requests"), counts.pop("hits")
    distinct = sum(len(worker.keys) for worker in replay.workers)
    print(f"{requests} requests in {seconds:.1f} s ({requests / seconds:.0f} a second), {distinct} keys, {len(replay.workers)} threads")
    print(f"hit ratio {100 * hits / requests:.2f} % ({hits} hits, {counts.pop('sets')} acknowledged SETs)")
    print(f"GET {percentiles([s for w in replay.workers for s in w.reads_s])}")
    print(f"SET {percentiles([s for w in replay.workers for s in w.writes_s])}")
    if replay.failover_s:
        first, last = min(replay.failover_s), max(replay.failover_s)
        print(f"failover: writes resumed {first:.2f} to {last:.2f} s after the kill ({len(replay.failover_s)} ranges of slots)")
    for what, count in sorted(counts.items()):
        print(f"  {what}: {count}")
    if not counts:
        print("  no retry and nothing uncertain")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trace", type=Path, default=CHECKOUT.parent / "shared" / "traces" / "web12.trace.xz", help="keys as i32, xz")
    options.add_argument("--requests", type=int, help="only this many; the whole trace otherwise")
    options.add_argument("--plant", action="store_true", help="loses an entry and changes one on purpose: must end with 2 violations")
    options = options.parse_args()
    if not options.trace.exists():
        sys.exit(f"replay: {options.trace.name} is not there; give another with --trace")
    keys = array("i", lzma.open(options.trace).read())[: options.requests]
    with Cluster(3) as cluster:
        replay = Replay(cluster, keys)
        began = time.monotonic()
        replay.run()
        seconds = time.monotonic() - began
        report(replay, seconds)
        if options.plant:
            replay.plant()
        replay.read_all()
        agree, told = replicas_agree(cluster)
        wrong = replay.wrong + [text for worker in replay.workers for text in worker.wrong]
        if not agree:
            wrong.append(f"replicas differ:\n{told}")
    for text in wrong[:20]:
        print(f"VIOLATION {text}")
    print(f"every reply checked: {len(wrong)} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    end_on_sigterm()
    try:
        sys.exit(main())
    except Trouble as trouble:
        sys.exit(f"replay: {trouble}")
