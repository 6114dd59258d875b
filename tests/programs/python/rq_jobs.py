"""What rq's worker is to do; it imports this by name."""

import time

import redis

NOTES = "rq-program:notes"


def add(a, b):
    return a + b


def same(value):
    return value


def note(port, text):
    redis.Redis(port=port).rpush(NOTES, text)
    return text


def fail(text):
    raise ValueError(text)


def third_time(port, name):
    """Fails twice, then says how often it was called."""
    times = redis.Redis(port=port).incr(f"rq-program:{name}")
    if times < 3:
        raise ValueError(f"call {times}")
    return times


def sleep(seconds):
    time.sleep(seconds)


def now():
    return time.time()
