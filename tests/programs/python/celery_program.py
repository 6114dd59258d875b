"""Celery with Redis as broker and result backend: this file is the application, the worker's and the caller's.

In several groups all keys share a slot, by Celery's own `global_keyprefix` with a hash tag.
"""

import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from celery import Celery, chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from celery.result import AsyncResult

from checks import Checks, proxy_ports

WITHIN_S = 30
ports = proxy_ports()
# The worker and the caller use different nodes where there are several.
url = f"redis://127.0.0.1:{ports[0] if __name__ == '__main__' else ports[-1]}/0"
app = Celery("program", broker=url, backend=url)
prefix = "{celery}:" if os.environ["HC_FACE"] == "three" else "celery-program:"
app.conf.update(
    broker_transport_options={"global_keyprefix": prefix, "visibility_timeout": 60, "queue_order_strategy": "priority"},
    result_backend_transport_options={"global_keyprefix": prefix},
    broker_connection_retry_on_startup=True,
    task_track_started=True,
    result_extended=True,
    result_expires=100,
)


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def wrong(text):
    raise ValueError(text)


@app.task(bind=True, max_retries=3)
def third_time(self):
    """Succeeds at its third try, and says which that was."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(bind=True, max_retries=1)
def never(self):
    raise self.retry(countdown=0.1, exc=KeyError("given up"))


@app.task
def now():
    return time.time()


@app.task(soft_time_limit=1)
def slow():
    time.sleep(WITHIN_S)


@app.task(bind=True)
def progress(self):
    self.update_state(state="HALF", meta={"done": 50})
    time.sleep(1)
    return "done"


def drive(check):
    got = lambda result: result.get(timeout=WITHIN_S)  # noqa: E731
    check("one task", got(add.delay(2, 3)), 5)
    results = [add.delay(number, number) for number in range(50)]
    check("50 tasks", [got(result) for result in results], [2 * number for number in range(50)])
    check("state of a task that is done", results[7].state, "SUCCESS")
    check("its name is kept", AsyncResult(results[7].id, app=app).name, f"{add.name}")
    check("a binary and a deep argument", got(add.delay(["\0é\r\n", {"a": [1, None]}], [True])), ["\0é\r\n", {"a": [1, None]}, True])

    failing = wrong.delay("as it should")
    check.error("a failure reaches the caller", ValueError, "as it should", got, failing)
    check("state of a failure", (failing.state, "ValueError" in failing.traceback), ("FAILURE", True))
    check("retried until it works", got(third_time.delay()), 2)
    check.error("retried until it is given up", KeyError, "given up", got, never.delay())
    check.error("a limit of time", SoftTimeLimitExceeded, "", got, slow.delay())

    check("chain", got(chain(add.s(1, 2), add.s(10), add.s(100))()), 113)
    check("group", got(group(add.s(number, 1) for number in range(20))()), list(range(1, 21)))
    check("chord", got(chord((add.s(number, number) for number in range(20)), total.s())()), 380)
    check("chord after a chain", got(chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s())()), 7)
    check.error("chord with a failing member", Exception, "member", got, chord([add.s(1, 1), wrong.s("member")], total.s())())

    began = time.time()
    check("countdown", got(now.apply_async(countdown=1)) - began >= 0.9, True)
    began = time.time()
    check("eta", got(now.apply_async(eta=datetime.now(timezone.utc) + timedelta(seconds=1))) - began >= 0.9, True)
    later = now.apply_async(countdown=2)
    later.revoke()
    check.error("a revoked task", TaskRevokedError, "", got, later)

    half, states = progress.delay(), []
    while half.state != "SUCCESS":
        if half.state == "HALF":
            states.append(half.info)
        time.sleep(0.05)
    check("progress seen on the way", {"done": 50} in states, True)
    check("ping of the worker", [list(answer.values()) for answer in app.control.ping(timeout=2)], [[{"ok": "pong"}]])

    connection = app.backend.client
    keys = [key for key in connection.scan_iter(match=f"{prefix}celery-task-meta-*", count=1000)]
    check("results are kept under the prefix", len(keys) > 100, True)
    check("results expire", all(0 < connection.ttl(key) <= 100 for key in keys[:20]), True)
    forgotten = add.delay(1, 1)
    got(forgotten)
    forgotten.forget()
    check("a result that is forgotten", AsyncResult(forgotten.id, app=app).state, "PENDING")
    # Every message was acknowledged: nothing is left to be delivered again.
    check("queue is empty", connection.llen(f"{prefix}celery"), 0)
    check("nothing unacknowledged", connection.hlen(f"{prefix}unacked"), 0)


def main():
    check = Checks()
    command = [sys.executable, "-m", "celery", "-A", "celery_program", "worker", "-c", "2", "-l", "CRITICAL"]
    worker = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL)
    try:
        drive(check)
        worker.terminate()
        check("the worker ends in order", worker.wait(WITHIN_S), 0)
    finally:
        if worker.poll() is None:
            worker.kill()
    return check.done()


if __name__ == "__main__":
    # Tasks must have the names under which the worker knows them.
    import celery_program

    app = celery_program.app
    app.conf.update(broker_url=url, result_backend=url)
    globals().update({name: getattr(celery_program, name) for name in ("add", "total", "wrong", "third_time", "never", "now", "slow", "progress")})
    sys.exit(main())
