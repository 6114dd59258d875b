"""redlock-py: contenders for one lock over stores that know nothing of one another, or over one store with three nodes."""

import os
import sys
import threading
import time

import redis
from redlock import Redlock

from checks import Checks, proxy_ports

check = Checks()
apart = [int(port) for port in os.environ["HC_APART"].split(",")]
stores = [redis.Redis(port=port) for port in apart]
# Through several nodes of one store a contender would meet itself; there each contender uses one of the nodes.
nodes = [[{"port": port} for port in apart]] if len(apart) > 1 else [[{"port": port}] for port in proxy_ports()]
CONTENDERS, ROUNDS = 6, 5


def contender(number, **settings):
    return Redlock(nodes[number % len(nodes)], **settings)


one, other = contender(0), contender(1, retry_count=1)
lock = one.lock("redlock:a", 10_000)
check("taken", (lock.resource, 0 < lock.validity <= 10_000), ("redlock:a", True))
check("kept in every store", [store.get("redlock:a") for store in stores], [lock.key] * len(stores))
check("it expires", all(0 < store.pttl("redlock:a") <= 10_000 for store in stores), True)
check("not taken twice", other.lock("redlock:a", 1000), False)
other.unlock(lock._replace(key="somebody else's"))
check("not released by another", stores[0].get("redlock:a"), lock.key)
one.unlock(lock)
check("released everywhere", [store.exists("redlock:a") for store in stores], [0] * len(stores))
check("free again", bool(second := other.lock("redlock:a", 1000)), True)
other.unlock(second)

short = one.lock("redlock:short", 300)
check("an expired lock is taken over", (short is not False, bool(contender(1, retry_count=20, retry_delay=0.1).lock("redlock:short", 1000))), (True, True))

if len(stores) > 1:
    stores[0].set("redlock:minor", "held")
    check("a majority is enough", bool(one.lock("redlock:minor", 1000)), True)
    for store in stores[:2]:
        store.set("redlock:major", "held")
    check("a minority is not", one.lock("redlock:major", 1000), False)
    check("and is given back", stores[2].exists("redlock:major"), 0)

inside, seen, entered = 0, [], []


def contend(number):
    """Each adds to a counter by reading and writing it, which only the lock makes whole."""
    global inside
    locks, counter = contender(number, retry_count=500, retry_delay=0.01), redis.Redis(port=apart[0])
    for _ in range(ROUNDS):
        held = locks.lock("redlock:b", 20_000)
        if not held:
            return
        inside += 1
        seen.append(inside)
        value = int(counter.get("redlock:counter") or 0)
        time.sleep(0.002)
        counter.set("redlock:counter", value + 1)
        inside -= 1
        entered.append(number)
        locks.unlock(held)


threads = [threading.Thread(target=contend, args=(number,)) for number in range(CONTENDERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
check("everybody had its turns", sorted(entered), sorted(list(range(CONTENDERS)) * ROUNDS))
check("never two inside", max(seen), 1)
check("no addition is lost", int(stores[0].get("redlock:counter")), CONTENDERS * ROUNDS)
sys.exit(check.done())
