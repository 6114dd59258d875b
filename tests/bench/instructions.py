"""Counts the instructions of each piece of a request's path (examples/instructions.rs, under callgrind) and compares them with
tests/bench/instructions.txt. Fails if a piece takes more than so many percent more than is written there: then find out
why, or write the new counts with --write and say why in the commit. Counts do not depend on how busy a machine is.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, Trouble, example  # noqa: E402

COMMITTED = CHECKOUT / "tests" / "bench" / "instructions.txt"
SOURCE = CHECKOUT / "examples" / "instructions.rs"
ALLOWED_PERCENT = 5


def count(keys):
    """Piece -> instructions a run of it."""
    program = example("instructions")
    source = SOURCE.read_text()
    times = int(re.search(r"const TIMES: usize = ([\d_]+);", source)[1].replace("_", ""))
    pieces = re.findall(r"#\[inline\(never\)\]\nfn (\w+)", source)
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        counted(program, keys, counts)
        annotated = subprocess.run(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(counts)], check=True, capture_output=True, text=True
        ).stdout
    found = {}
    for instructions, piece in re.findall(r"^\s*([\d,]+) .*?instructions::(\w+)\b", annotated, re.MULTILINE):
        if piece in pieces:
            found[piece] = max(found.get(piece, 0), int(instructions.replace(",", "")) / times)
    missing = set(pieces) - set(found)
    if missing:
        raise Trouble(f"not counted: {', '.join(sorted(missing))}")
    return {piece: found[piece] for piece in pieces}


def counted(program, keys, counts):
    """Has callgrind write what it counted from the moment the keyspace is filled: before, the program runs several times faster."""
    command = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counts}", str(program), str(keys)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        filled = running.stdout.readline()
        switch = subprocess.run(["callgrind_control", "--instr=on", str(running.pid)], capture_output=True, text=True)
        running.communicate("\n")
    if running.returncode != 0 or not filled or switch.returncode != 0:
        raise Trouble(f"callgrind counted nothing: {switch.stdout}{switch.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help=f"write {COMMITTED.relative_to(CHECKOUT)}")
    options = parser.parse_args()
    found = count(options.keys)
    if options.write:
        COMMITTED.write_text("".join(f"{piece} {instructions:.0f}\n" for piece, instructions in found.items()))
    committed = {}
    for line in COMMITTED.read_text().splitlines():
        piece, instructions = line.split()
        committed[piece] = int(instructions)
    if set(committed) != set(found):
        raise Trouble("other pieces are committed than are counted: --write")
    worse = 0
    for piece, instructions in found.items():
        percent = 100 * (instructions / committed[piece] - 1)
        bad = percent > ALLOWED_PERCENT
        worse += bad
        print(f"{piece:15} {instructions:8.0f} instructions a command, {percent:+5.1f} %{'  TOO MANY' if bad else ''}")
    if worse:
        raise Trouble(f"{worse} pieces take over {ALLOWED_PERCENT} % more instructions than tests/bench/instructions.txt says")


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"instructions: {trouble}")
