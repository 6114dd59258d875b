"""Words and tables of the document: what a bar demands, what was found, and rows of loads."""

from dataclasses import dataclass

from servers import table, verdict

HEAD = ["", "a second", "to the first", "p50 ms", "p99 ms", "p99.9 ms", "CPU us", "to the first", "spread of rate", "of CPU"]


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


def load_table(groups):
    """Loads that were compared: group -> name -> row. Ratios are to the first of its group."""
    lines = []
    for group, rows in groups.items():
        first = next(iter(rows.values()))
        for name, row in rows.items():
            ratio = {figure: f"{row[figure] / first[figure]:.2f}" for figure in ("rate", "cpu_us")}
            latencies = [f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms", "p999_ms")]
            spreads = [f"{100 * row[f'{figure}_spread']:.0f} %" for figure in ratio]
            lines.append([f"{group}, {name}", f"{row['rate']:,.0f}", ratio["rate"], *latencies, f"{row['cpu_us']:.2f}", ratio["cpu_us"], *spreads])
    return table(HEAD, lines)
