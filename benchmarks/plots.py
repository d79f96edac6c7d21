"""Plots of what ``run.py --json`` has written, as PNG: ``python benchmarks/plots.py RESULTS.json DIRECTORY``.

Needs matplotlib.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

COLOURS = {"old": "#b0b0b0", "bare": "#e0a030", "new": "#2060a0"}
NAMES = {"old": "0.13.0", "bare": "bare sockets", "new": "this package"}


def speeds(numbers: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Thousands of datagrams for each second of the processor: the median, and the range of the slices."""
    from matplotlib import pyplot

    bars = [(name, values) for group in numbers.values() for name, values in group.items()]
    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(bars) + 1.2))
    for position, (name, values) in enumerate(bars):
        side, case = name.split(" ")
        rates = sorted(1000 / value for value in values)
        middle = statistics.median(rates)
        axes.barh(position, middle, color=COLOURS[side], xerr=[[middle - rates[0]], [rates[-1] - middle]], capsize=2)
        axes.text(rates[-1], position, f" {middle:.0f}", va="center", fontsize=7)
    axes.set_yticks(range(len(bars)), [name.split(" ")[1] for name, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("thousands of datagrams for each second of the processor, both peers")
    axes.legend(
        handles=[pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[side]) for side in NAMES], labels=list(NAMES.values())
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def ratios(results: list[dict[str, Any]], path: Path) -> None:
    """How many times better, by row."""
    from matplotlib import pyplot

    rows = [row for row in results if row["ratio"] is not None]
    figure, axes = pyplot.subplots(figsize=(9, 0.3 * len(rows) + 1.2))
    colours = ["#c04040" if row["reached"] is False else COLOURS["new"] for row in rows]
    axes.barh(range(len(rows)), [row["ratio"] for row in rows], color=colours)
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows], fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("times better than what it is measured against")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def growth(content: dict[str, Any], path: Path) -> None:
    """What pairs cost, by their number in the process."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.5))
    labels = {"kib": "MiB of memory", "cpu": "% of a processor, idle", "all": "seconds to connect, ten at a time"}
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        for side in ("old", "new"):
            crowds = {
                int(case.removeprefix("crowd-")): statistics.median(numbers[name])
                for case, numbers in content[side].items()
                if case.removeprefix("crowd-").isdigit()
            }
            sizes = sorted(crowds)
            values = [crowds[size] * (size / 1024 if name == "kib" else 1) for size in sizes]
            axes.plot(sizes, values, marker="o", color=COLOURS[side], label=NAMES[side])
        axes.set_xlabel("pairs in one process")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw(content: dict[str, Any], directory: Path) -> None:
    """All plots of one run."""
    import matplotlib

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    if content["data"]:
        speeds(content["data"], directory / "data.png")
    if any(case.removeprefix("crowd-").isdigit() for case in content["new"]):
        growth(content, directory / "growth.png")
    ratios(content["results"], directory / "ratios.png")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
