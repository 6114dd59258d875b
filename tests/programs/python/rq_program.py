"""rq: jobs, failures, retries, dependencies, schedules, and the worker, which is a process of its own.

rq joins keys of its own naming in MULTI (the queue, the job, registries), so it needs a store with one group.
"""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import redis
import rq_jobs
from rq import Queue, Retry, Worker
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry

from checks import BINARY, Checks, proxy_ports

WITHIN_S = 20
check = Checks()
port = proxy_ports()[0]
connection = redis.Redis(port=port)


def wait(job, *states):
    until = time.monotonic() + WITHIN_S
    while (state := job.get_status(refresh=True).value) not in states:
        if time.monotonic() > until:
            return f"{state} after {WITHIN_S} s"
        time.sleep(0.02)
    return state


def result(job):
    state = wait(job, "finished", "failed", "stopped", "canceled")
    return job.return_value() if state == "finished" else state


def drive():
    high, low = Queue("high", connection=connection), Queue("low", connection=connection)
    # Before there is a worker: order, priority and cancelling are seen in the list that the jobs write.
    first = [low.enqueue(rq_jobs.note, port, f"low-{number}") for number in range(3)]
    front = low.enqueue(rq_jobs.note, port, "front", at_front=True)
    urgent = high.enqueue(rq_jobs.note, port, "high")
    dropped = low.enqueue(rq_jobs.note, port, "dropped")
    dropped.cancel()
    check("length of a queue", (len(low), len(high)), (4, 1))
    check("positions", [low.get_job_position(job.id) for job in (front, *first)], [0, 1, 2, 3])
    command = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "--with-scheduler", "--url", f"redis://127.0.0.1:{port}", "high", "low"]
    worker = subprocess.Popen(command, cwd=Path(__file__).parent)
    try:
        check("a job's result", result(low.enqueue(rq_jobs.add, 2, 3)), 5)
        check("order", connection.lrange(rq_jobs.NOTES, 0, -1), [b"high", b"front", b"low-0", b"low-1", b"low-2"])
        check("urgent was done", result(urgent), "high")
        check("cancelled", dropped.get_status().value, "canceled")
        check("a binary result", result(low.enqueue(rq_jobs.same, BINARY)), BINARY)
        jobs = low.enqueue_many([Queue.prepare_data(rq_jobs.add, (n, n), job_id=f"many-{n}") for n in range(10)])
        check("many at once", [result(job) for job in jobs], [2 * n for n in range(10)])

        failing = low.enqueue(rq_jobs.fail, "as it should")
        check("a failure", wait(failing, "failed", "finished"), "failed")
        check("its traceback", "ValueError: as it should" in failing.latest_result().exc_string, True)
        check("in the registry of failures", failing.id in FailedJobRegistry("low", connection=connection), True)
        retried = low.enqueue(rq_jobs.third_time, port, "retried", retry=Retry(max=3))
        check("retried until it works", result(retried), 3)
        given_up = low.enqueue(rq_jobs.third_time, port, "given up", retry=Retry(max=1))
        while given_up.id not in FailedJobRegistry("low", connection=connection):
            time.sleep(0.02)
        check("retried until it is given up", connection.get("rq-program:given up"), b"2")
        connection.set("rq-program:requeued", 1)
        repaired = low.enqueue(rq_jobs.third_time, port, "requeued")
        check("fails at first", wait(repaired, "failed", "finished"), "failed")
        repaired.requeue()
        check("works when put into the queue again", result(repaired), 3)

        parent = low.enqueue(rq_jobs.note, port, "parent")
        child = high.enqueue(rq_jobs.note, port, "child", depends_on=parent)
        check("a job after another", result(child), "child")
        check("in that order", connection.lrange(rq_jobs.NOTES, -2, -1), [b"parent", b"child"])
        slow = low.enqueue(rq_jobs.sleep, 20, job_timeout=1)
        check("a limit of time", wait(slow, "failed", "finished"), "failed")

        began = time.time()
        scheduled = low.enqueue_in(timedelta(seconds=2), rq_jobs.now)
        check("scheduled", scheduled in [Job.fetch(i, connection=connection) for i in ScheduledJobRegistry(queue=low).get_job_ids()], True)
        check("not before its time", result(scheduled) - began >= 1, True)

        finished = FinishedJobRegistry("low", connection=connection)
        check("registry of what is finished", jobs[3].id in finished, True)
        check("results expire", 0 < connection.ttl(jobs[3].key) <= 500, True)
        check("unknown job", Job.exists("none", connection=connection), False)
        workers = Worker.all(connection=connection)
        check("workers", [(w.pid, sorted(w.queue_names())) for w in workers], [(worker.pid, ["high", "low"])])
        worker.terminate()
        check("the worker ends in order", worker.wait(WITHIN_S), 0)
        check("and is signed off", Worker.count(connection=connection), 0)
    finally:
        if worker.poll() is None:
            worker.kill()


drive()
sys.exit(check.done())
