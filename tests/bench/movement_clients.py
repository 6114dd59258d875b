"""Clients in another language than the server's, for tests/bench/movement.py: redis-py's plain client at the proxy face and its
cluster client at the cluster face. They read, write, swap and delete few keys, and write down what they saw in the form that
`jepsen --check` judges (jepsen/src/history.rs).

The first line on standard input says what to do (`Plan`), the second one ends it and names the nodes through which every key
is then read. One line of JSON is printed: how many operations there were, and what went wrong where and when.
"""

import itertools
import json
import random
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry

HOST = "127.0.0.1"
# Above the server's request_timeout: an answer comes, or there is something wrong.
ANSWER_WITHIN_S = 8
# Calls on a key before its lane goes on to the next, so that judging it stays possible.
CALLS_A_KEY = 150
# How long a client looks for a node that takes it, and how long it waits between two.
ROAMS_S, NEXT_S = 30, 0.02
VALUES_A_CLIENT = 10_000_000


class Lane:
    """A key in one slot, and after some calls the next one there."""

    def __init__(self, number, tag):
        self.number, self.tag, self.calls = number, tag, itertools.count()

    def name(self, key):
        return f"r{self.number}.{key}:{{{self.tag}}}"

    def key(self):
        return self.name(next(self.calls) // CALLS_A_KEY)

    def keys(self):
        return [self.name(key) for key in range((next(self.calls) - 1) // CALLS_A_KEY + 1)]


class Plan:
    """What all clients share. Times are those of CLOCK_MONOTONIC, as whoever started this sees them, too."""

    def __init__(self, told):
        self.proxy, self.cluster = ({int(node): port for node, port in told[face].items()} for face in ("proxy", "cluster"))
        self.nodes, self.began, self.history = told["nodes"], told["began"], told["history"]
        self.proxies, self.clusters, self.rate = told["proxies"], told["clusters"], told["rate"]
        self.lanes = [Lane(number, tag) for number, tag in enumerate(told["tags"])]
        self.processes = itertools.count()
        self.over = threading.Event()

    def node_of(self, port):
        return next((node for node, known in (*self.proxy.items(), *self.cluster.items()) if known == port), None)


# No retry behind our back: a SET sent twice could not be told from one sent once.
SETTINGS = {"socket_timeout": ANSWER_WITHIN_S, "decode_responses": True}


def once():
    return Retry(NoBackoff(), 0)


class Plain:
    """A plain client of one node, which goes on at another when its connection ends."""

    face = "proxy"

    def __init__(self, plan, node):
        self.plan, self.node = plan, node
        self.client = self.connect(node)

    def connect(self, node):
        client = redis.Redis(host=HOST, port=self.plan.proxy[node], retry=once(), **SETTINGS)
        client.ping()
        return client

    def call(self, *words):
        return self.client.execute_command(*words)

    def go_on(self):
        left, until = self.node, time.monotonic() + ROAMS_S
        self.client.close()
        while time.monotonic() < until:
            self.node = random.choice([node for node in self.plan.proxy if node != left])
            try:
                self.client = self.connect(self.node)
                return
            except redis.RedisError:
                time.sleep(NEXT_S)
        raise RuntimeError(f"no node takes the client that node {left} left alone")


class Clustered:
    """A cluster client: it finds the leaders by itself, and follows MOVED."""

    face = "cluster"

    def __init__(self, plan, _):
        self.node = None
        nodes = [ClusterNode(HOST, port) for node, port in plan.cluster.items() if node in plan.nodes]
        self.client = RedisCluster(startup_nodes=nodes, retry=once(), **SETTINGS)

    def call(self, *words):
        return self.client.execute_command(*words)

    def go_on(self):
        """It looks for the leaders anew by itself."""


class Client(threading.Thread):
    """Calls at its share of the rate, and remembers what became of them."""

    def __init__(self, plan, number, kind):
        super().__init__(daemon=True)
        self.plan, self.number = plan, number
        self.way = kind(plan, plan.nodes[number % len(plan.nodes)])
        self.process = next(plan.processes)
        self.values = itertools.count(number * VALUES_A_CLIENT + 1)
        self.seen, self.events, self.failures, self.calls, self.wrong = {}, [], [], 0, None

    def run(self):
        try:
            interval = (self.plan.proxies + self.plan.clusters) / self.plan.rate
            due = time.monotonic() + random.random() * interval
            while not self.plan.over.wait(max(0, due - time.monotonic())):
                self.operate(self.words())
                # Not as many at once as it missed.
                due = max(due + interval, time.monotonic() - interval)
        except Exception as error:
            self.wrong = f"{type(error).__name__}: {error}"

    def words(self):
        key, dice = random.choice(self.plan.lanes).key(), random.random()
        if dice < 0.45:
            return ["GET", key]
        if dice < 0.65 and self.seen.get(key):
            return ["SET", key, str(next(self.values)), "IFEQ", self.seen[key]]
        if dice < 0.68:
            return ["DEL", key]
        if dice < 0.75:
            return ["SET", key, str(next(self.values)), "NX"]
        return ["SET", key, str(next(self.values))]

    def operate(self, words):
        process, node = self.process, self.way.node
        self.note("invoke", process, node, words=words)
        self.calls += 1
        try:
            answer = self.way.call(*words)
        except (redis.RedisError, RedisClusterException) as error:
            end = self.failed(error)
            self.note(end, process, node, error=f"{type(error).__name__}: {error}")
            if end == "info":
                self.process = next(self.plan.processes)
            if not isinstance(error, redis.ResponseError):
                self.way.go_on()
            return
        if words[0] == "GET":
            self.seen = {words[1]: answer}
        if words[0] == "SET":
            answer = "OK" if answer else None
        self.note("ok", process, node, reply=answer)

    def failed(self, error):
        """Remembers an operation that was not answered. Whether it may have happened: `fail` or `info`."""
        unknown = True
        if isinstance(error, redis.ResponseError):
            unknown = str(error).startswith("UNCERTAIN")
            kind = "uncertain" if unknown else "errors"
        elif isinstance(error, redis.TimeoutError):
            kind = "timeout"
        elif isinstance(error, RedisClusterException):
            # The nodes do not agree on who leads what, and redis-py gives up.
            kind = "no map"
        else:
            unknown = "connecting to" not in str(error)
            kind = "unanswered" if unknown else "refused"
        # redis-py's cluster client tells of which connection it speaks.
        port = getattr(getattr(error, "connection", None), "port", None)
        node = self.way.node or self.plan.node_of(port)
        told = {"at": time.monotonic(), "face": self.way.face, "node": node, "kind": kind, "text": f"{type(error).__name__}: {error}"}
        self.failures.append(told)
        return "info" if unknown else "fail"

    def note(self, kind, process, node, **rest):
        now = int((time.monotonic() - self.plan.began) * 1e6)
        self.events.append((now, {"type": kind, "process": process, "node": node or 0, "time_us": now, **rest}))


def read_all(plan, reader, nodes):
    """Every key once through every node, into the same history: what was acknowledged and is lost is seen here."""
    for node in nodes:
        reader.way = Plain(plan, node)
        for lane in plan.lanes:
            for key in lane.keys():
                reader.operate(["GET", key])


def main():
    plan = Plan(json.loads(sys.stdin.readline()))
    kinds = [Plain] * plan.proxies + [Clustered] * plan.clusters
    clients = [Client(plan, number, kind) for number, kind in enumerate(kinds)]
    for client in clients:
        client.start()
    print("ready", flush=True)
    last = sys.stdin.readline()
    plan.over.set()
    if not last:
        sys.exit("whoever started the clients is gone")
    for client in clients:
        client.join()
    read_all(plan, clients[0], json.loads(last))
    # Stable: what one process did stays in its order.
    events = sorted((event for client in clients for event in client.events), key=lambda event: event[0])
    with open(plan.history, "w") as file:
        file.writelines(json.dumps(event) + "\n" for _, event in events)
    wrong = [f"client {client.number} ended: {client.wrong}" for client in clients if client.wrong]
    failures = [failure for client in clients for failure in client.failures]
    print(json.dumps({"calls": sum(client.calls for client in clients), "failures": failures, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main()
