"""redis-py's RedisCluster against the cluster face: it finds the leaders by itself and is sent MOVED when it errs."""

import sys

import redis
from redis.cluster import ClusterNode, RedisCluster

from checks import BINARY, LARGE, Checks, cluster_ports

check = Checks()
nodes = [ClusterNode("127.0.0.1", port) for port in cluster_ports()]

for protocol in (2, 3):
    tag = f"pyc{protocol}"
    client = RedisCluster(startup_nodes=nodes, protocol=protocol)
    check("nodes found", {node.port for node in client.get_nodes()}, set(cluster_ports()))
    spread = {client.get_node_from_key(f"{tag}:{n}").port for n in range(100)}
    check("every node leads something", spread, set(cluster_ports()))
    check("SET on every slot", all(client.set(f"{tag}:{n}", n) for n in range(100)), True)
    check("GET on every slot", [client.get(f"{tag}:{n}") for n in range(100)], [b"%d" % n for n in range(100)])
    check("MSET in one slot", client.mset({f"{{{tag}}}x": "1", f"{{{tag}}}y": "2"}), True)
    check("MGET in one slot", client.mget(f"{{{tag}}}x", f"{{{tag}}}y"), [b"1", b"2"])
    check.error("MGET across slots", Exception, "same key slot", client.execute_command, "MGET", f"{tag}1", f"{tag}2", f"{tag}3")
    check("MGET across slots, split", client.mget_nonatomic([f"{tag}:{n}" for n in range(20)]), [b"%d" % n for n in range(20)])
    check("INCR", [client.incr(f"{tag}:n") for _ in range(3)], [1, 2, 3])
    check("EXPIRE", bool(client.expire(f"{tag}:n", 100)), True)
    check("TTL", 95 <= client.ttl(f"{tag}:n") <= 100, True)
    pipe = client.pipeline()
    for number in range(50):
        pipe.set(f"{tag}:p:{number}", number)
        pipe.get(f"{tag}:p:{number}")
    check("pipeline of 100", pipe.execute(), [reply for n in range(50) for reply in (True, b"%d" % n)])
    check("DEL across slots", client.delete(*[f"{tag}:p:{n}" for n in range(50)]), 50)
    check("binary value", client.set(f"{tag}:bin", BINARY) and client.get(f"{tag}:bin"), BINARY)
    check("1 MB value", client.set(f"{tag}:large", LARGE) and client.get(f"{tag}:large") == LARGE, True)
    # A node that does not lead the key answers MOVED, and the client follows it.
    leader = client.get_node_from_key(f"{tag}:1")
    stray = next(node for node in client.get_nodes() if node.port != leader.port)
    plain = redis.Redis(port=stray.port)
    check.error("MOVED", redis.ResponseError, f"127.0.0.1:{leader.port}", plain.execute_command, "GET", f"{tag}:1")
    check("a stray client follows", client.execute_command("GET", f"{tag}:1", target_nodes=leader), b"1")
    check.error("unknown command", redis.ResponseError, "unknown command 'NOSUCH'", plain.execute_command, "NOSUCH", "a")
    check.error("wrong arity", redis.ResponseError, "wrong number of arguments for 'get' command", plain.execute_command, "GET")
    check.error("SELECT 1", redis.ResponseError, "SELECT is not allowed", plain.execute_command, "SELECT", "1")
    check("INFO", plain.info()["cluster_enabled"], 1)

sys.exit(check.done())
