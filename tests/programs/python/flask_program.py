"""Flask: Flask-Session's sessions and Flask-Caching's cache, in an application of two processes' worth of clients."""

import sys
import time
from datetime import timedelta

import redis
from flask import Flask, jsonify, request, session
from flask_caching import Cache
from flask_session import Session

from checks import Checks, proxy_ports

check = Checks()
ports = proxy_ports()
calls = {"page": 0, "square": 0}


def application(port):
    """Each of the two is as if in a process of its own: nothing is shared but the store."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="of this test",
        SESSION_TYPE="redis",
        SESSION_REDIS=redis.Redis(port=port),
        SESSION_KEY_PREFIX="flask-session:",
        PERMANENT_SESSION_LIFETIME=timedelta(seconds=100),
        CACHE_TYPE="RedisCache",
        CACHE_REDIS_PORT=port,
        CACHE_KEY_PREFIX="{flask}",
        CACHE_DEFAULT_TIMEOUT=100,
    )
    Session(app)
    cache = Cache(app)

    @app.route("/count")
    def count():
        session["visits"] = session.get("visits", 0) + 1
        return jsonify(visits=session["visits"], user=session.get("user"))

    @app.route("/in", methods=["POST"])
    def log_in():
        session["user"] = request.form["user"]
        app.session_interface.regenerate(session)
        return ""

    @app.route("/out", methods=["POST"])
    def log_out():
        session.clear()
        return ""

    @app.route("/page")
    @cache.cached(query_string=True)
    def page():
        calls["page"] += 1
        return f"made {calls['page']} times"

    @cache.memoize(timeout=100)
    def square(number):
        calls["square"] += 1
        return number * number

    app.square, app.cache = square, cache
    return app


here, there = application(ports[0]), application(ports[-1])
store = redis.Redis(port=ports[0])


def at(app, cookie):
    client = app.test_client()
    if cookie is not None:
        client.set_cookie("session", cookie)
    return client


def cookie_of(client):
    return client.get_cookie("session").value


ada, bob = here.test_client(), there.test_client()
check("sessions: counts", [ada.get("/count").json["visits"] for _ in range(3)], [1, 2, 3])
check("sessions: apart", bob.get("/count").json["visits"], 1)
before = cookie_of(ada)
check("sessions: seen by the other process", at(there, before).get("/count").json["visits"], 4)
check("sessions: expire", 0 < store.ttl(f"flask-session:{before}") <= 100, True)
ada.post("/in", data={"user": "ada"})
after = cookie_of(ada)
check("sessions: a new key at log-in", (before != after, store.exists(f"flask-session:{before}"), store.exists(f"flask-session:{after}")), (True, 0, 1))
check("sessions: with what was in it", at(there, after).get("/count").json, {"visits": 5, "user": "ada"})
check("sessions: the old key is of no use any more", at(here, before).get("/count").json, {"visits": 1, "user": None})
ada.post("/out")
check("sessions: gone at log-out", (store.exists(f"flask-session:{after}"), ada.get("/count").json["visits"]), (0, 1))
store.expire(f"flask-session:{cookie_of(bob)}", 0)
check("sessions: gone when expired", bob.get("/count").json["visits"], 1)

check("pages: the other process takes it from the cache", [app.test_client().get("/page").data for app in (here, there)], [b"made 1 times"] * 2)
check("pages: another query is another page", there.test_client().get("/page?a=1").data, b"made 2 times")
check("memoize", ([here.square(7), here.square(7), here.square(8)], calls["square"]), ([49, 49, 64], 2))
here.cache.delete_memoized(here.square, 7)
check("memoize: forgotten", (here.square(7), here.square(8), calls["square"]), (49, 64, 3))
cache, other = here.cache, there.cache
check("cache: set and get", (cache.set("a", {"x": [1, None]}), other.get("a")), (True, {"x": [1, None]}))
check("cache: add", (cache.add("a", 1), cache.add("b", 1)), (False, True))
check("cache: many", (len(cache.set_many({f"m{n}": n for n in range(20)})), other.get_many(*[f"m{n}" for n in range(20)], "none")), (20, [*range(20), None]))
check("cache: many as a dict", other.get_dict("m1", "none"), {"m1": 1, "none": None})
check("cache: has", (cache.has("a"), cache.has("none")), (True, False))
cache.set("short", 1, timeout=1)
until = time.monotonic() + 10
while other.get("short") is not None and time.monotonic() < until:
    time.sleep(0.05)
check("cache: expires", other.get("short"), None)
cache.delete_many(*[f"m{n}" for n in range(20)])
check("cache: delete", (other.get("m3"), cache.delete("a"), other.get("a")), (None, True, None))
sys.exit(check.done())
