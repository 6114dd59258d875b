"""Runs programs that check what they get from a server, and counts their checks.

A program, in whatever language, is told by its environment where the server is, ends with a line "N checks", and on the
first wrong answer says which and exits with 1. Nothing that it started outlives it.
"""

import contextlib
import os
import re
import signal
import subprocess
import tempfile

from cluster import Trouble

LAST_LINES = 20


def checks_of(command, environment, within_s):
    """The number of checks. Raises Trouble with the program's last words if any failed, if it made none, or if it took longer."""
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        # In a process group of its own, so that what it left behind is ended with it.
        program = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = program.wait(within_s)
        except subprocess.TimeoutExpired:
            code = f"not finished after {within_s} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        said, complained = (file.seek(0) or file.read() for file in (out, err))
    counted = re.search(r"^(\d+) checks$", said, re.MULTILINE)
    if code == 0 and counted and int(counted[1]) > 0:
        return int(counted[1])
    raise Trouble("\n".join([f"exit: {code}", *(complained or said).strip().splitlines()[-LAST_LINES:]]))
