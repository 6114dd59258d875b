"""What `scripts/bench` measures, in the order of the document. Each part is a module with

- `TITLE`, and the docstring, which the document shows under it;
- `measure(bench)`: measures and gives what it found as plain data, which is kept as docs/benchmarks/PART.json;
- `bars(found)`: what was demanded of it, and
- `tell(found)`: the rest of its page, in Markdown, from that data alone.

A part that is named for `--only` is measured by itself; what others found before stays as it is.
"""

from . import idle, large, latency, mix, nodes, overload, peers, shapes, size, web

PARTS = {
    "shapes": shapes,
    "latency": latency,
    "mix": mix,
    "web": web,
    "size": size,
    "large": large,
    "idle": idle,
    "overload": overload,
    "nodes": nodes,
    "peers": peers,
}
