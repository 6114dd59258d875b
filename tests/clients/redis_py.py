"""redis-py against the proxy face, over RESP2 and, where this version can, RESP3."""

import sys

import redis

from checks import BINARY, LARGE, Checks, proxy_ports

check = Checks()
version = tuple(int(part) for part in redis.__version__.split(".")[:2])
protocols = [{}] if version < (5, 0) else [{"protocol": 2}, {"protocol": 3}]
ports = proxy_ports()

for protocol in protocols:
    tag = f"py{version[0]}.{protocol.get('protocol', 'x')}"
    client = redis.Redis(port=ports[0], **protocol)
    other = redis.Redis(port=ports[-1], **protocol)
    check("PING", client.ping(), True)
    check("SET", client.set(f"{tag}:a", "1"), True)
    check("GET", client.get(f"{tag}:a"), b"1")
    check("GET through another node", other.get(f"{tag}:a"), b"1")
    check("GET of nothing", client.get(f"{tag}:none"), None)
    check("MSET in one slot", client.mset({f"{{{tag}}}x": "1", f"{{{tag}}}y": "2"}), True)
    check("MGET in one slot", client.mget(f"{{{tag}}}x", f"{{{tag}}}y"), [b"1", b"2"])
    for number in range(8):
        client.set(f"{tag}:spread:{number}", number)
    keys = [f"{tag}:spread:{number}" for number in range(8)]
    check("MGET across slots", client.mget([*keys, f"{tag}:none"]), [b"%d" % n for n in range(8)] + [None])
    check("INCR", [client.incr(f"{tag}:n") for _ in range(3)], [1, 2, 3])
    check("EXPIRE", client.expire(f"{tag}:a", 100), True)
    check("TTL", 95 <= client.ttl(f"{tag}:a") <= 100, True)
    check("TTL without", client.ttl(f"{tag}:n"), -1)
    check("SET PX NX", client.set(f"{tag}:a", "2", px=1000, nx=True), None)
    check("DEL across slots", client.delete(*keys, f"{tag}:none"), 8)
    pipe = client.pipeline(transaction=False)
    for number in range(50):
        pipe.set(f"{tag}:p:{number}", number)
        pipe.get(f"{tag}:p:{number}")
    check("pipeline of 100", pipe.execute(), [reply for n in range(50) for reply in (True, b"%d" % n)])
    check("binary value", client.set(f"{tag}:bin", BINARY) and other.get(f"{tag}:bin"), BINARY)
    check("binary key", client.set(BINARY, tag) and other.get(BINARY), tag.encode())
    check("1 MB value", client.set(f"{tag}:large", LARGE) and other.get(f"{tag}:large") == LARGE, True)
    check.error("unknown command", redis.ResponseError, "unknown command 'NOSUCH'", client.execute_command, "NOSUCH", "a")
    check.error("wrong arity", redis.ResponseError, "wrong number of arguments for 'get' command", client.execute_command, "GET")
    check.error("no integer", redis.ResponseError, "value is not an integer or out of range", client.incr, f"{tag}:bin")
    check.error("MSET across slots", redis.RedisError, "hash to the same slot", client.mset, {f"{tag}1": 1, f"{tag}2": 2, f"{tag}3": 3, f"{tag}4": 4})
    check.error("SELECT 1", redis.ResponseError, "SELECT is not allowed", client.execute_command, "SELECT", "1")
    hello = client.execute_command("HELLO", str(protocol.get("protocol", 2)))
    hello = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2]))
    check("HELLO", hello[b"proto" if b"proto" in hello else "proto"], protocol.get("protocol", 2))
    check("INFO", client.info()["cluster_enabled"], 0)
    check("SCAN", {key for key in client.scan_iter(match=f"{tag}:p:*", count=100)}, {f"{tag}:p:{n}".encode() for n in range(50)})

sys.exit(check.done())
