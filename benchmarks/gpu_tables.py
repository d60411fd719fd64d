"""The Markdown tables of what `gpu.py` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from budget import summary

Record = Mapping[str, Any]

SYSTEMS = ("eager", "act 0%", "act 30%", "act 100%")
TARGETS = {("act 30%", 2048): 1.05, ("act 100%", 2048): 1.15, ("act 100%", 32768): 1.35}
"""The most that a forward pass may take, as a ratio to flash sdpa, by system and number of tokens."""


def markdown(result: Mapping[str, Any]) -> str:
    """All tables.

    Args:
        result: `machine`, `command`, `seconds` and `budget_seconds`, and `parts`, which `budget.run_parts` gives, of
            the kinds in `TABLES`.
    """
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = ["# On a device", "", f"`{result['command']}`", "", machine, ""]
    lines += [f"{result['seconds']:.0f} s of {result['budget_seconds']:.0f} s.", ""]
    lines += ["| part | what became of it |", "|---|---|"]
    lines += [f"| {part['part']} | {_cell(summary(part))} |" for part in result["parts"]]
    for kind, table in TABLES.items():
        rows = [row for part in result["parts"] if part["kind"] == kind for row in part["rows"]]
        if rows:
            lines += ["", f"## {kind.capitalize()}", "", *table(rows)]
    return "\n".join(lines) + "\n"


def everything_is_right(result: Mapping[str, Any]) -> bool:
    """Whether all kernel cases and whole models that were tried gave what they should."""
    return all(row["right"] for part in result["parts"] if part["kind"] in ("kernels", "whole models") for row in part["rows"])


def _kernels(rows: Sequence[Record]) -> Iterator[str]:
    """A line for each dtype and head dimension, then one for each case that went wrong."""
    yield "Largest differences from full maps in float64, of cases that the Triton kernels did and of those that torch did:"
    yield ""
    yield "| dtype | head dim | right | means, Triton | outputs, Triton | means, torch | outputs, torch | outputs at most |"
    yield "|---|---|---|---|---|---|---|---|"
    for dtype, dim in dict.fromkeys((row["dtype"], row["dim"]) for row in rows):
        group = [row for row in rows if (row["dtype"], row["dim"]) == (dtype, dim)]
        right = f"{sum(row['right'] for row in group)} of {len(group)}"
        errors = [
            _largest(group, kernels, error)
            for kernels in ("triton_kernels", "blockwise")
            for error in ("means_error", "output_error")
        ]
        tolerance = min((row["output_tolerance"] for row in group if "output_tolerance" in row), default=None)
        errors.append("" if tolerance is None else f"{tolerance:.1e}")
        yield f"| {dtype} | {dim} | {right} | {' | '.join(errors)} |"
    wrong = [row for row in rows if not row["right"]]
    if wrong:
        yield from ("", "| wrong | why |", "|---|---|")
    for row in wrong:
        why = row.get("error") or (
            f"{row['sinks_differ']} sinks differ, means {row['means_error']:.1e}, outputs {row['output_error']:.1e}"
        )
        yield f"| {row['dtype']}, {row['dim']}, {row['case']} | {_cell(why)} |"


def _whole_models(rows: Sequence[Record]) -> Iterator[str]:
    """A line for each model."""
    yield "Logits of small models, against those that the published code gave; calls of each module of kernels:"
    yield ""
    yield "| model | right | largest difference | at most | calls |"
    yield "|---|---|---|---|---|"
    for row in rows:
        calls = ", ".join(f"{name} {number}" for name, number in row["calls"].items())
        yield f"| {row['model']} | {'yes' if row['right'] else 'NO'} | {row['error']:.1e} | {row['tolerance']:.1e} | {calls} |"


def _largest(rows: Sequence[Record], kernels: str, error: str) -> str:
    values = [row[error] for row in rows if row.get("kernels") == kernels]
    return f"{max(values):.1e}" if values else ""


def _forward(rows: Sequence[Record]) -> Iterator[str]:
    """Ratios to sdpa, what calibration alone takes, and memory beyond sdpa's; then the targets."""
    yield "Ratio to flash sdpa, median (least-most); calibration alone as a share of its time; peak memory beyond its own:"
    yield ""
    columns = ["shape", "part", "n", "sdpa, ms", *SYSTEMS, "alone, 30%", "alone, 100%", *(f"{name}, MiB" for name in SYSTEMS)]
    yield f"| {' | '.join([*columns, 'sinks per head'])} |"
    yield "|---|" + "---|" * len(columns)
    for row in rows:
        cells = [row["shape"], row["part"], f"{row['n']}", f"{1000 * row['sdpa_seconds']:.2f}"]
        cells += [_ratio(row["ratios"].get(name)) for name in SYSTEMS]
        cells += [f"{row['calibration'][name]:.1%}" for name in ("act 30%", "act 100%")]
        cells += [_mebibytes(row["extra_bytes"].get(name)) for name in SYSTEMS]
        yield f"| {' | '.join([*cells, format(row['sinks_per_head'], '.1f')])} |"
    left_out = dict.fromkeys(f"eager at n = {row['n']}: {row['eager_left_out']}" for row in rows if "eager_left_out" in row)
    yield from ("", "Left out: " + "; ".join(left_out) + ".") if left_out else ()
    of_passes = {(row["shape"], row["n"]): row["ratios"] for row in rows if row["part"] == "forward"}
    targets = [
        (shape, n, name, ratios[name]["median"], most)
        for (shape, n), ratios in of_passes.items()
        for (name, at), most in TARGETS.items()
        if at == n
    ]
    if targets:
        yield from ("", "| target: forward | n | system | measured | at most | met |", "|---|---|---|---|---|---|")
    for shape, n, name, measured, most in targets:
        yield f"| {shape} | {n} | {name} | {measured:.2f} | {most:.2f} | {'yes' if measured <= most else 'no'} |"


def _end_to_end(rows: Sequence[Record]) -> Iterator[str]:
    """Ratios to stock `hf`."""
    systems = list(rows[0]["ratios"])
    yield "Ratio to lm-eval's stock `hf`, median (least-most):"
    yield ""
    yield f"| rows | floor (operations) | {' | '.join(systems)} | sinks per head | hf, s |"
    yield "|---|---|" + "---|" * (len(systems) + 2)
    for row in rows:
        ratios = " | ".join(_ratio(row["ratios"][name]) for name in systems)
        yield f"| {row['rows']} | {row['floor']:.2f} | {ratios} | {row['sinks_per_head']:.1f} | {row['hf_seconds']:.2f} |"


def _block_sizes(rows: Sequence[Record]) -> Iterator[str]:
    """Times of the ways to launch the kernels, the fastest first, and why others failed."""
    columns = {"work": "work", "dtype": "dtype", "dim": "head dim", "n": "n", "block": "block", "step": "step"}
    columns |= {"warps": "warps", "stages": "stages"}
    yield "Kernels launched in other ways than the package does; times in ms:"
    yield ""
    yield f"| {' | '.join(columns.values())} | time | the package's | largest difference |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (row["work"], row.get("seconds", float("inf")))):
        launch = " | ".join(str(row[name]) for name in columns)
        if "error" in row:
            yield f"| {launch} | {_cell(row['error'])} |  |  |"
        else:
            times = f"{1000 * row['seconds']:.2f} | {1000 * row['own_seconds']:.2f}"
            yield f"| {launch} | {times} | {row['difference']:.1e} |"


def _ratio(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"


def _mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:+.0f}"


def _cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


TABLES = {
    "kernels": _kernels,
    "whole models": _whole_models,
    "forward": _forward,
    "end to end": _end_to_end,
    "block sizes": _block_sizes,
}
"""What makes the lines of a table from the rows of all parts of a kind."""
