"""Pictures of benchmark reports."""

from __future__ import annotations

from pathlib import Path

from .parts import PARTS
from .tables import BenchmarkReport, Table
from .timing import Spread
from .tradeoff import AP, TIME


def draw_report(report: BenchmarkReport, path: str | Path) -> bool:
    """Draws the tables.

    These are parts of steps as stacked bars, ratios beside 1, peak memory, differences of changes
    beside 0, and AP over time.

    Args:
        report: The report.
        path: Picture file.

    Returns:
        Whether a table had something to draw.
    """
    from matplotlib.figure import Figure

    charts = [(table, draw) for table in report.tables for draw in _charts_of(table)]
    if not charts:
        return False
    heights = [  # inches
        5.0 if draw is _draw_tradeoff else 1.3 + 0.35 * len(table.rows) for table, draw in charts
    ]
    figure = Figure(figsize=(9, sum(heights)), layout='constrained')
    axes = figure.subplots(len(charts), 1, squeeze=False, height_ratios=heights)
    for (table, draw), place in zip(charts, axes[:, 0], strict=True):
        draw(table, place)
        if draw is not _draw_tradeoff:
            place.invert_yaxis()
        place.set_title(table.title, fontsize=9)
        place.tick_params(labelsize=7)
        place.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=120)
    return True


def _charts_of(table: Table) -> list:
    charts = []
    if f'{PARTS[0]} s' in table.columns:
        charts.append(_draw_parts)
    if any(_ratio_columns(table)):
        charts.append(_draw_ratios)
    if 'peak MiB' in table.columns:
        charts.append(_draw_memory)
    if any('difference' in row for row in table.rows):
        charts.append(_draw_differences)
    if {AP, TIME} <= set(table.columns):
        charts.append(_draw_tradeoff)
    return [chart for chart in charts if table.rows]


def _ratio_columns(table: Table) -> list[str]:
    return [name for name in table.columns if 'ratio' in name or name.startswith('ours /')]


def _label(row: dict) -> str:
    """Returns the cells of a row that name it."""
    words = ('model', 'backbone', 'precision', 'pass', 'part', 'case', 'peer', 'sizes')
    return ' '.join(str(row[word]) for word in words if word in row)


def _draw_parts(table: Table, axes) -> None:
    labels = [_label(row) for row in table.rows]
    left = [0.0] * len(labels)
    for part in PARTS:
        seconds = [row.get(f'{part} s', 0.0) for row in table.rows]
        axes.barh(range(len(labels)), seconds, left=left, label=part)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel('seconds of a step', fontsize=7)
    axes.legend(fontsize=6, ncols=4)


def _draw_ratios(table: Table, axes) -> None:
    bars = [
        (f'{_label(row)} {name}'.strip(), row[name])
        for row in table.rows
        for name in _ratio_columns(table)
        if isinstance(row.get(name), (Spread, float))
    ]
    for place, (_, value) in enumerate(bars):
        if isinstance(value, Spread):
            axes.plot([value.low, value.high], [place, place], color='C0', alpha=0.5, linewidth=4)
        axes.plot(value.median if isinstance(value, Spread) else value, place, 'o', color='C0')
    axes.axvline(1.0, color='0.5', linewidth=1)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_xlabel('ratio; below 1 is better than the peer', fontsize=7)


def _draw_memory(table: Table, axes) -> None:
    labels = [_label(row) for row in table.rows]
    axes.barh(range(len(labels)), [row.get('peak MiB', 0.0) for row in table.rows], color='C2')
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel('peak memory, MiB', fontsize=7)


def _draw_differences(table: Table, axes) -> None:
    rows = [row for row in table.rows if 'difference' in row]
    for place, row in enumerate(rows):
        difference = row['difference']
        if difference.count > 1:
            ends = [difference.low, difference.high]
            axes.plot(ends, [place, place], color='C0', alpha=0.5, linewidth=4)
        axes.plot(difference.mean, place, 'o', color='C0')
    axes.axvline(0.0, color='0.5', linewidth=1)
    axes.set_yticks(range(len(rows)), [f'{row["change"]} ({row["seeds"]})' for row in rows])
    axes.set_xlabel('difference to the base (number of seeds); above 0 is better', fontsize=7)


def _draw_tradeoff(table: Table, axes) -> None:
    for number, model in enumerate(dict.fromkeys(row['model'] for row in table.rows)):
        rows = [row for row in table.rows if row['model'] == model]
        times = [row[TIME].median for row in rows]
        axes.plot(times, [row[AP] for row in rows], 'o', color=f'C{number}', label=model)
        for row, time in zip(rows, times, strict=True):
            if 'queries' in row:
                text = f'{row["queries"]} queries, {row["decoder layers"]} layers'
                axes.annotate(
                    text, (time, row[AP]), fontsize=6, xytext=(4, 2), textcoords='offset points'
                )
    axes.set_xlabel(TIME, fontsize=7)
    axes.set_ylabel(AP, fontsize=7)
    axes.legend(fontsize=6)
