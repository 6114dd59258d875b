"""What the Python clients' programs share: counting checks, and the values that are easily got wrong.

Every client program, in whatever language, is told where the cluster is by HC_PROXY and HC_CLUSTER (ports, separated by
commas), ends with a line "N checks", and on the first wrong answer says which and exits with 1.
"""

import os
import sys

# Every byte there is, line ends and zeroes among them.
BINARY = bytes(range(256)) + b"\r\n$-1\r\n\0"
LARGE = bytes(range(256)) * 4096


def proxy_ports():
    return [int(port) for port in os.environ["HC_PROXY"].split(",")]


def cluster_ports():
    return [int(port) for port in os.environ["HC_CLUSTER"].split(",")]


class Checks:
    def __init__(self):
        self.count = 0

    def __call__(self, what, got, wanted):
        if got != wanted:
            self.wrong(what, got, wanted)
        self.count += 1

    def error(self, what, kind, text, call, *arguments):
        """The call must raise that error, and its text must contain this one."""
        try:
            got = call(*arguments)
        except kind as refusal:
            got = f"{type(refusal).__name__}: {refusal}"
            if text in got:
                self.count += 1
                return
        self.wrong(what, got, f"an error with {text!r}")

    @staticmethod
    def wrong(what, got, wanted):
        print(f"{what}: got {str(got)[:300]!r}, expected {str(wanted)[:300]!r}", file=sys.stderr)
        sys.exit(1)

    def done(self):
        print(f"{self.count} checks")
        return 0
