"""Speed, CPU time and size of HyperCache beside Redis, two bare programs and other peers, in the same run and on the same disk, those that are
compared taking turns. Prints the figures, keeps what was found in docs/benchmarks/ and writes docs/benchmarks.md with its plots from
that. It judges nothing: a missed bar is no failure, an error reply is.

What is measured is told by the modules of tests/bench/parts/. `--only` measures some of them and leaves the others' findings as they are.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "harness"))

from cluster import CHECKOUT, Trouble, binary, end_on_sigterm  # noqa: E402
from document import Folder  # noqa: E402
from loads import FULL, QUICK, Bench, say  # noqa: E402
from parts import PARTS  # noqa: E402
import report  # noqa: E402
from servers import processor, redis_version, version_of  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of each load; keeps nothing unless --write")
    parser.add_argument("--write", action="store_true", help="keeps what --quick found, too")
    parser.add_argument("--only", help=f"some parts, with commas between: {', '.join(PARTS)}")
    parser.add_argument("--render", action="store_true", help="measures nothing, writes the document from what was kept")
    parser.add_argument("--docs", type=Path, default=CHECKOUT / "docs", help="the folder where all is written")
    parser.add_argument("--dir", help="where the servers keep their files: the disk that is measured")
    parser.add_argument("--valkey", help="a program of Valkey to measure beside Redis")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else list(PARTS)
    unknown = set(options.only) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there is {', '.join(PARTS)}")
    return options


def measured(part, bench):
    """What a part found, and when and where."""
    say(f"{part}: {PARTS[part].TITLE}")
    busy, began = os.getloadavg()[0], time.monotonic()
    found = PARTS[part].measure(bench)
    took = time.monotonic() - began
    say(f"  took {took:.0f} s")
    return {
        "date": str(datetime.date.today()),
        "machine": f"{os.cpu_count()} cores ({processor()}), Linux {platform.release().split('-')[0]}",
        "hypercache": version_of(str(binary()), r"(\d\S*)"),
        "redis": redis_version(),
        "busy": busy,
        "quick": bench.scale.quick,
        "rounds": bench.scale.rounds,
        "seconds": bench.scale.seconds,
        "took": took,
        # As it will be read again.
        "found": json.loads(json.dumps(found)),
    }


def main():
    options = arguments()
    scale = QUICK if options.quick else FULL
    keeps = options.write or not options.quick
    folder, bench, failed = Folder(options.docs), Bench(scale, options.dir, options.valkey), []
    for part in [] if options.render else options.only:
        try:
            finding = measured(part, bench)
        except Trouble as trouble:
            failed.append(part)
            print(f"bench: {part}: {trouble}", file=sys.stderr, flush=True)
            continue
        print(report.bars(PARTS[part].bars(finding["found"])))
        if keeps:
            folder.keep(part, finding)
    if keeps or options.render:
        folder.write()
    if failed:
        sys.exit(f"bench: failed: {', '.join(failed)}")


if __name__ == "__main__":
    end_on_sigterm()
    main()
