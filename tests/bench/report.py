"""Words and tables of the document: what a bar demands, what was found, and rows of loads."""

from dataclasses import dataclass

from servers import table, verdict

HEAD = ["", "a second", "p50 ms", "p99 ms", "p99.9 ms", "CPU us", "spread of rate", "of CPU"]


@dataclass
class Bar:
    """A demand. `at_least`: more is better. Without a `limit` it is `ok` or not by itself."""

    what: str
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def reached(self):
        return self.value is not None and (self.value >= self.limit if self.at_least else self.value <= self.limit)

    def cells(self):
        measured = "not measured" if self.value is None else f"{number(self.value)}{self.unit}"
        return [self.what, f"{'>=' if self.at_least else '<='} {number(self.limit)}{self.unit}", measured, verdict(self.reached)]


def number(value):
    """Three digits that matter, whole from a hundred on."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def bars(all_of_them):
    return table(["what", "bar", "measured", ""], [bar.cells() for bar in all_of_them])


def load_cells(row):
    cells = [f"{row['rate']:,.0f}"]
    cells += [f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms", "p999_ms", "cpu_us")]
    return cells + [f"{100 * row[f'{name}_spread']:.0f} %" for name in ("rate", "cpu_us")]


def load_table(rows):
    """A table of named rows."""
    return table(HEAD, [[name, *load_cells(row)] for name, row in rows.items()])
