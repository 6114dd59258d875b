"""Django: its own Redis cache, sessions over it with requests through the whole of Django, and django-redis with locks.

The prefixes hold a hash tag, so that what joins several keys (set_many) stays in one slot.
"""

import sys
import threading
import time

import django
from django.conf import settings

from checks import BINARY, Checks, proxy_ports

ports = proxy_ports()
# Django writes to the first of its servers and reads from the others: where there are several nodes, that is through another.
locations = [f"redis://127.0.0.1:{port}/0" for port in ports]
settings.configure(
    SECRET_KEY="of this test",
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.cache.UpdateCacheMiddleware",
                "django.middleware.common.CommonMiddleware", "django.middleware.cache.FetchFromCacheMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SESSION_CACHE_ALIAS="sessions",
    SESSION_COOKIE_AGE=100,
    CACHE_MIDDLEWARE_SECONDS=100,
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": locations, "KEY_PREFIX": "{django}"},
        "sessions": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": locations[0], "KEY_PREFIX": "session"},
        "django-redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": locations[-1], "KEY_PREFIX": "{django-redis}"},
    },
)
django.setup()

from django.core.cache import caches  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.cache import never_cache  # noqa: E402

calls = {"page": 0}


@never_cache
def count(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"], "key": request.session.session_key})


@never_cache
def log_in(request):
    request.session["user"] = "ada"
    request.session.cycle_key()
    return HttpResponse(request.session.session_key)


@never_cache
def log_out(request):
    request.session.flush()
    return HttpResponse("")


def page(request):
    calls["page"] += 1
    return HttpResponse(f"made {calls['page']} times")


urlpatterns = [path("count", count), path("in", log_in), path("out", log_out), path("page", page)]
check = Checks()


def cache_of(name):
    cache = caches[name]
    check(f"{name}: nothing there", cache.get("none", "default"), "default")
    cache.set("a", {"deep": [1, None, "é"], "bytes": BINARY}, 100)
    check(f"{name}: any value", cache.get("a"), {"deep": [1, None, "é"], "bytes": BINARY})
    check(f"{name}: add", (cache.add("a", 1), cache.add("b", 1)), (False, True))
    check(f"{name}: incr and decr", (cache.incr("b", 5), cache.decr("b", 2), cache.get("b")), (6, 4, 4))
    check.error(f"{name}: incr of nothing", ValueError, "not found", cache.incr, "none")
    check(f"{name}: set_many", cache.set_many({f"m{n}": n for n in range(20)}, 100) or [], [])
    check(f"{name}: get_many", cache.get_many([f"m{n}" for n in range(20)] + ["none"]), {f"m{n}": n for n in range(20)})
    cache.delete_many([f"m{n}" for n in range(10)])
    check(f"{name}: delete_many", sorted(cache.get_many([f"m{n}" for n in range(20)]).values()), list(range(10, 20)))
    check(f"{name}: get_or_set", (cache.get_or_set("made", lambda: "new", 100), cache.get_or_set("made", "other")), ("new", "new"))
    check(f"{name}: touch", (cache.touch("a", 100), cache.touch("none", 100)), (True, False))
    check(f"{name}: has_key and in", (cache.has_key("a"), "none" in cache), (True, False))
    cache.set("short", 1, 1)
    until = time.monotonic() + 10
    while cache.get("short") is not None and time.monotonic() < until:
        time.sleep(0.05)
    check(f"{name}: expires", cache.get("short"), None)
    cache.set("never", 1, timeout=0)
    check(f"{name}: a timeout of zero is no value", cache.get("never"), None)
    cache.set("versions", "one", version=1)
    cache.set("versions", "two", version=2)
    check(f"{name}: versions", (cache.get("versions", version=1), cache.get("versions", version=2)), ("one", "two"))
    check(f"{name}: delete", (cache.delete("a"), cache.delete("a"), cache.get("a")), (True, False, None))


def sessions():
    ada, bob = Client(), Client()
    check("sessions: counts", [ada.get("/count").json()["visits"] for _ in range(3)], [1, 2, 3])
    check("sessions: apart", bob.get("/count").json()["visits"], 1)
    before = ada.get("/count").json()["key"]
    after = ada.post("/in").content.decode()
    check("sessions: a new key at log-in", before != after, True)
    check("sessions: the old one is gone", caches["sessions"].get(f"django.contrib.sessions.cache{before}"), None)
    check("sessions: with what was in it", caches["sessions"].get(f"django.contrib.sessions.cache{after}"), {"visits": 4, "user": "ada"})
    raw = caches["sessions"]._cache.get_client(f"session:1:django.contrib.sessions.cache{after}")
    check("sessions: expire", 0 < raw.ttl(f"session:1:django.contrib.sessions.cache{after}") <= 100, True)
    ada.post("/out")
    check("sessions: gone at log-out", ada.get("/count").json()["visits"], 1)
    stolen = Client()
    stolen.cookies["sessionid"] = after
    check("sessions: the key is of no use any more", stolen.get("/count").json()["visits"], 1)


def pages():
    first, second = Client().get("/page"), Client().get("/page")
    check("pages: the second comes from the cache", (first.content, second.content, calls["page"]), (b"made 1 times", b"made 1 times", 1))
    check("pages: another query is another page", Client().get("/page?other").content, b"made 2 times")


def more_of_django_redis():
    cache = caches["django-redis"]
    cache.set("ttl", 1, 100)
    check("ttl", (0 < cache.ttl("ttl") <= 100, cache.ttl("none")), (True, 0))
    check("persist and expire", (cache.persist("ttl"), cache.ttl("ttl"), cache.expire("ttl", 50), 0 < cache.ttl("ttl") <= 50), (True, None, True, True))
    check("set nx", (cache.set("nx", 1, nx=True), cache.set("nx", 2, nx=True), cache.get("nx")), (True, False, 1))
    check("keys", sorted(cache.keys("m1?")), [f"m{n}" for n in range(10, 20)])
    check("iter_keys", sorted(cache.iter_keys("m1?", itersize=3)), [f"m{n}" for n in range(10, 20)])
    check("delete_pattern", (cache.delete_pattern("m1?"), cache.keys("m1?")), (10, []))
    check("sets", (cache.sadd("set", 1, 2, 3), cache.smembers("set"), cache.scard("set")), (3, {1, 2, 3}, 3))

    total, inside, most = [0], [0], [0]

    def contend():
        for _ in range(5):
            with cache.lock("lock", timeout=20, sleep=0.005):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                value = total[0]
                time.sleep(0.002)
                total[0] = value + 1
                inside[0] -= 1

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("locks: one at a time", (total[0], most[0]), (30, 1))
    held = cache.lock("lock", timeout=20)
    check("locks: taken", (held.acquire(), cache.lock("lock", timeout=20).acquire(blocking=False)), (True, False))
    check("locks: longer", (held.extend(100), held.owned()), (True, True))
    held.release()
    check("locks: free", held.locked(), False)


cache_of("default")
cache_of("django-redis")
sessions()
pages()
more_of_django_redis()
if len(ports) == 1:
    # FLUSHDB is for a store of one's own.
    caches["default"].clear()
    check("clear", (caches["default"].get("b"), caches["django-redis"].get("b")), (None, None))
sys.exit(check.done())
