"""What a selection of photos writes: lists, and sheets of pictures."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import whole_file
from .photo_splits import NearDuplicate, Selection
from .sheet import draw_sheet, max_pictures

# Names of the files, without their suffix.
CHOSEN, DUPLICATES = 'chosen', 'near_duplicates'
# Pairs on the sheet of near-duplicates.
_MAX_PAIRS = 100


def is_sheet(path: Path) -> bool:
    """Returns whether a picture is a sheet that a selection has drawn, with its list beside it."""
    sheets = (f'{CHOSEN}.jpg', f'{DUPLICATES}.jpg')
    return path.name in sheets and path.with_suffix('.csv').is_file()


def count_pairs(found: Sequence[NearDuplicate]) -> list[str]:
    """Returns how many photos of each split are near-duplicates of which, as sentences."""
    counts = Counter((pair.of_split, pair.split) for pair in found)
    return [
        f'{count} near-duplicates within {split}'
        if of_split == split
        else f'{count} photos of {split} are near-duplicates of photos of {of_split}'
        for (of_split, split), count in counts.items()
    ]


def write_selection(
    folder: Path, selection: Selection, found: Sequence[NearDuplicate], statement: str
) -> list[Path]:
    """Writes the list of chosen photos, that of near-duplicates and a sheet of pictures of each.

    Args:
        folder: Folder for the files; it is made.
        selection: The chosen photos.
        found: The near-duplicates.
        statement: What the embeddings are.

    Returns:
        The files, of those that are not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uncertainty = selection.uncertainty
    if uncertainty is None:
        uncertainty = np.full(len(selection.chosen), np.nan)
    rows = [
        (rank, path, _number(distance), _number(unsure))
        for rank, (path, distance, unsure) in enumerate(
            zip(selection.chosen, selection.distance, uncertainty, strict=True), 1
        )
    ]
    _write(folder / f'{CHOSEN}.txt', ''.join(f'{path}\n' for path in selection.chosen))
    _write_csv(folder / f'{CHOSEN}.csv', ('rank', 'photo', 'distance', 'uncertainty'), rows)
    _write_csv(
        folder / f'{DUPLICATES}.csv',
        ('photo', 'split', 'of', 'of_split', 'correlation', 'mirrored'),
        [
            (p.photo, p.split, p.of, p.of_split, _number(p.correlation), 'yes' * p.mirrored)
            for p in found
        ],
    )
    written = [folder / f'{CHOSEN}.txt', folder / f'{CHOSEN}.csv', folder / f'{DUPLICATES}.csv']
    of_chosen, of_pairs = folder / f'{CHOSEN}.jpg', folder / f'{DUPLICATES}.jpg'
    for sheet in (of_chosen, of_pairs):  # of an earlier call
        sheet.unlink(missing_ok=True)
    shown = rows[: max_pictures()]
    if shown:
        titles = [f'{rank}: {Path(path).name}' for rank, path, _, _ in shown]
        heading = f'{len(rows)} photos to label, the first one first. Embeddings: {statement}'
        written.append(of_chosen)
        draw_sheet([row[1] for row in shown], titles, heading, written[-1])
    if found:
        written.append(of_pairs)
        _draw_pairs(found, written[-1])
    return written


def _draw_pairs(found: Sequence[NearDuplicate], path: Path) -> None:
    """Draws near-duplicates beside each other, the least similar ones first."""
    pairs = sorted(found, key=lambda pair: pair.correlation)[:_MAX_PAIRS]
    photos, titles = [], []
    for pair in pairs:
        photos += pair.photo, pair.of
        mark = ', mirrored' * pair.mirrored
        titles += (
            f'{pair.split}: {Path(pair.photo).name}',
            f'{pair.of_split}: {Path(pair.of).name}{mark}',
        )
    heading = f'{len(found)} near-duplicates, in pairs, the least similar ones first'
    draw_sheet(photos, titles, heading, path, columns=6)


def _number(value: float) -> str:
    return '' if math.isnan(value) else f'{value:.4f}'


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    writer.writerows(rows)
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    """Writes a text with the names of files as they are, also those that are no UTF-8."""
    with whole_file(path) as partial:
        partial.write_bytes(text.encode(errors='surrogateescape'))
