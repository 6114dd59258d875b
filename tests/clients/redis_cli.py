"""redis-cli: its output as a script sees it, and its cluster mode."""

import subprocess
import sys

from checks import BINARY, LARGE, Checks, cluster_ports, proxy_ports

check = Checks()


def cli(*arguments, port=None, given=None, options=()):
    """What redis-cli writes, without the line end that it adds."""
    command = ["redis-cli", "-p", str(port or proxy_ports()[0]), *options, *arguments]
    out = subprocess.run(command, input=given, capture_output=True, timeout=30).stdout
    return out[:-1] if out.endswith(b"\n") else out


last = proxy_ports()[-1]
# Before anything else: groups that no client has written to answer reads, from every node and for all groups at once.
for port in proxy_ports():
    check("DBSIZE", cli("DBSIZE", port=port).isdigit(), True)
    check("MGET of nothing", cli("MGET", *[f"none:{n}" for n in range(50)], port=port), b"\n" * 49)
check("SET", cli("SET", "cli:a", "1"), b"OK")
check("GET", cli("GET", "cli:a", port=last), b"1")
check("MSET in one slot", cli("MSET", "{cli}x", "1", "{cli}y", "2"), b"OK")
for number in range(8):
    check("SET", cli("SET", f"cli:{number}", str(number)), b"OK")
keys = [f"cli:{number}" for number in range(8)]
check("MGET across slots", cli("MGET", *keys, "cli:none"), b"\n".join(b"%d" % n for n in range(8)) + b"\n")
check("INCR", [cli("INCR", "cli:n") for _ in range(3)], [b"1", b"2", b"3"])
check("EXPIRE", cli("EXPIRE", "cli:n", "100"), b"1")
check("TTL", 95 <= int(cli("TTL", "cli:n")) <= 100, True)
check("DEL across slots", cli("DEL", *keys), b"8")
check("a shown reply", cli("GET", "cli:none", options=["--no-raw"]), b"(nil)")
check("RESP3", cli("HELLO", "3", options=["-3", "--no-raw"]).count(b'"proto" => (integer) 3'), 1)
check("unknown command", cli("NOSUCH", "a").strip(), b"ERR unknown command 'NOSUCH', with args beginning with: 'a'")
check("wrong arity", cli("GET").strip(), b"ERR wrong number of arguments for 'get' command")
check("SELECT 1", b"SELECT is not allowed" in cli("SELECT", "1"), True)
check("binary value", cli("SET", "cli:bin", given=BINARY, options=["-x"]), b"OK")
check("binary value read", cli("GET", "cli:bin", port=last), BINARY)
check("1 MB value", cli("SET", "cli:large", given=LARGE, options=["-x"]), b"OK")
check("1 MB value read", cli("GET", "cli:large", port=last) == LARGE, True)

pipe = b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\ncli:p:%d\r\n$1\r\nx\r\n" % (6 + len(str(n)), n) for n in range(100))
check("--pipe of 100", b"errors: 0, replies: 100" in cli(given=pipe, options=["--pipe"]), True)
check("--scan", len(cli(options=["--scan", "--pattern", "cli:p:*"]).split()), 100)

face = cluster_ports()
check("-c follows MOVED", [cli("SET", f"cli:{n}", "c", port=face[0], options=["-c"])[-2:] for n in range(20)], [b"OK"] * 20)
check("-c reads", [cli("GET", f"cli:{n}", port=face[-1], options=["-c"])[-1:] for n in range(20)], [b"c"] * 20)
checked = cli(options=["--cluster", "check", f"127.0.0.1:{face[0]}"])
check("--cluster check", b"[OK] All 16384 slots covered" in checked, True)
check("--cluster check agrees", b"[OK] All nodes agree about slots configuration" in checked, True)

sys.exit(check.done())
