"""Plots as SVG, without a library: groups of bars on a logarithmic axis. Each carries its own colours for light and for dark backgrounds, and the
figure itself stands above its bar, so that nobody has to measure with the eye."""

import math
from xml.sax.saxutils import escape

WIDTH, PLOT_HEIGHT = 960, 280
LEFT, RIGHT, TOP, BELOW = 64, 16, 84, 34
# Told apart by lightness too, for who does not see the hues.
COLOURS = [("#1f5fa8", "#6cb0f5"), ("#d9822b", "#f0b060"), ("#8a8f98", "#a9afb9"), ("#2f8f5b", "#63c58f"), ("#a23b72", "#e08bb8")]
GAP = 0.22


def style():
    rules = ["text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-size:16px;font-weight:600}.small{font-size:10.5px}.line{stroke:#d0d7de}"]
    rules += [f".c{number}{{fill:{light}}}" for number, (light, _) in enumerate(COLOURS)]
    dark = ["text{fill:#e6edf3}.line{stroke:#3d444d}"]
    dark += [f".c{number}{{fill:{colour}}}" for number, (_, colour) in enumerate(COLOURS)]
    return f"<style>{''.join(rules)}@media(prefers-color-scheme:dark){{{''.join(dark)}}}</style>"


def text(x, y, words, anchor="middle", kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(words)}</text>'


def short(value):
    """Two digits, or all of a number up to 999, with k and M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return digits(value / size) + unit
    return digits(value)


def digits(value):
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


class Axis:
    """Whole decades that hold all values."""

    def __init__(self, values):
        self.low = math.floor(math.log10(min(values)) - 0.05)
        self.high = max(self.low + 1, math.ceil(math.log10(max(values)) + 0.05))

    def y(self, value):
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return TOP + PLOT_HEIGHT * (1 - share)

    def lines(self):
        for decade in range(self.low, self.high + 1):
            y = self.y(10.0**decade)
            yield f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield text(LEFT - 8, y + 4, short(10.0**decade), "end")


def legend(names):
    x = LEFT
    for number, name in enumerate(names):
        yield f'<rect class="c{number}" x="{x}" y="44" width="12" height="12" rx="2"/>'
        yield text(x + 18, 54, name, "start")
        x += 36 + 7 * len(name)


def grouped(title, unit, groups, names):
    """`groups`: name -> the values of `names` in their order, None where there is none."""
    axis = Axis([value for values in groups.values() for value in values if value])
    bottom = TOP + PLOT_HEIGHT
    share = (WIDTH - LEFT - RIGHT) / len(groups)
    parts = [text(LEFT, 24, title, "start", "title"), text(WIDTH - RIGHT, 24, f"{unit}, logarithmic", "end", "small"), *legend(names), *axis.lines()]
    for group, (name, values) in enumerate(groups.items()):
        left, width = LEFT + share * (group + GAP / 2), share * (1 - GAP) / len(names)
        for number, value in enumerate(values):
            if value:
                x, y = left + width * number, axis.y(value)
                parts.append(f'<rect class="c{number}" x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{bottom - y:.1f}" rx="2"/>')
                parts.append(text(x + width / 2, y - 4, short(value), kind="small"))
        parts.append(text(LEFT + share * (group + 0.5), bottom + 20, name))
    height = bottom + BELOW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
        f"<title>{escape(title)}</title>{style()}{''.join(parts)}</svg>\n"
    )
