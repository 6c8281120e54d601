"""Reading of COCO annotation files into columns.

A file is decoded in pieces, so that only its text and the columns are in memory at the same time.
`msgspec` decodes the fields that are needed and nothing else. A piece in which anything is not as
expected is decoded by Python's own parser and checked entry by entry. That is slower; it fills in
what other fields say, and finds words for what is wrong.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from ..errors import InputError
from .annotation_columns import AnnotationColumns, ColumnsBuilder, IdColumn
from .coco_file import (
    DERIVED,
    check_section,
    check_unique,
    derive_fields,
    find_problems,
    raise_problems,
)
from .freed_memory import return_freed_memory
from .segmentation_boxes import LARGEST
from .shared_columns import read_once
from .text_file import as_utf8, read_json

# Columns of files that have been read, by their state; the oldest are forgotten.
_known: dict[tuple[Any, ...], AnnotationColumns] = {}
_MAX_KNOWN = 8
# Nanoseconds that are more than a tick of the clock of file systems; some count full seconds, or
# every second one.
_TICK = 5 * 10**7
_SECOND = 10**9
# Bytes of a file from which on its columns are worth sharing between processes.
_SHARED_SIZE = 8 * 2**20
# Bytes of text that are decoded at a time: what comes of them fits into the caches of a core.
_PIECE = 2**19
# Between two entries of a section; also between two objects inside of an entry or of a text.
_BETWEEN = re.compile(rb'\}\s*(,)\s*\{')

# What counts as no segmentation, as in Python.
_NO_SEGMENTATION = (b'', b'[]', b'{}', b'null', b'""', b'0', b'false')

_Id = int | str
_Flag = Literal[0, 1] | bool


# `None` stands for a field that is not there. Defaults are not checked, and `null` is refused.
class _Image(msgspec.Struct, gc=False):
    id: _Id
    file_name: str
    width: float = None
    height: float = None


class _Annotation(msgspec.Struct, gc=False):
    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    area: float = None
    iscrowd: _Flag = None
    ignore: _Flag = None


class _MaskedAnnotation(_Annotation, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw()


def read_entries(path: str) -> dict[str, Any]:
    """Reads a COCO annotation file as Python objects, with all the fields that it has.

    This takes ten times the memory of the columns. What other fields say is filled in.

    Args:
        path: A file that :func:`read_annotations` accepts.
    """
    content = read_json(Path(path))
    for section in DERIVED:
        derive_fields(section, content.get(section, ()))
    return content


def read_annotations(
    path: str, sizes: bool = True, segmentations: bool = False
) -> AnnotationColumns:
    """Reads a local COCO annotation file and checks every entry.

    A ``bbox`` that is missing or empty is the box around the segmentation, and a ``file_name`` that
    is missing is the path of the ``coco_url``, as in LVIS.

    Args:
        path: The file.
        sizes: Whether the entries of images need ``width`` and ``height``; without, these may be
            missing, ``None`` or 0.
        segmentations: Whether to keep the segmentations, for masks.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not JSON, or not in COCO's format.
    """
    if not os.path.isfile(path):
        what = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f"annotation file '{path}' {what}")
    state = _state(path)
    known = _known.get(state)
    if known is None or not _fits(known, sizes, segmentations):
        known = _read(path, state, sizes, segmentations)
    if not _fits(known, sizes, segmentations):
        known = _Reader(path, sizes, segmentations).read()  # says which sizes are missing
    return known if known.path == path else dataclasses.replace(known, path=path)


def _fits(columns: AnnotationColumns, sizes: bool, segmentations: bool) -> bool:
    if segmentations and columns.annotated and columns.segmentations is None:
        return False
    return columns.has_sizes or not sizes


def _read(path: str, state: tuple[Any, ...], sizes: bool, segmentations: bool) -> AnnotationColumns:
    """Reads a file, and keeps the columns for whoever asks for them later."""
    began = time.time_ns()
    reader = _Reader(path, sizes, segmentations)
    _, size, *times = state
    if size < _SHARED_SIZE:
        columns = reader.read()
    else:
        columns = read_once(path, (*state, segmentations), reader.read)
        return_freed_memory()
    # One more change within a tick of the clock of the file system would not show.
    changed = max(times[:2])
    tick = _TICK if changed % _SECOND else 2 * _SECOND
    if began - changed > tick and _state(path) == state:
        _known[state] = columns
        while len(_known) > _MAX_KNOWN:
            del _known[next(iter(_known))]
    return columns


def _state(path: str) -> tuple[Any, ...]:
    """Returns what changes when a file does: its name, its size, times and number."""
    state = os.stat(path)
    times = state.st_mtime_ns, state.st_ctime_ns
    return os.path.realpath(path), state.st_size, *times, state.st_dev, state.st_ino


class _Reader:
    """Reads one file; see :func:`read_annotations`."""

    def __init__(self, path: str, sizes: bool, segmentations: bool) -> None:
        self._path = path
        self._sizes = sizes
        self._segmentations = segmentations

    def read(self) -> AnnotationColumns:
        with _no_garbage_collection():
            try:
                text = as_utf8(Path(self._path).read_bytes())
                return self._read_sections(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
            except InputError:
                raise
            except (ValueError, RecursionError):
                # Python's parser takes more, such as NaN, and its errors name the place.
                return self._read_sections(read_json(Path(self._path)))

    def _read_sections(self, content: Any) -> AnnotationColumns:
        """Reads the sections of a file: the text of each, or Python objects."""
        path = self._path
        if not isinstance(content, dict):
            raise InputError(
                f"annotation file '{path}' must hold a dict with 'images', 'annotations' and "
                f"'categories', but holds a {type(content).__name__}; convert it to COCO's format"
            )
        for section in ('images', 'categories'):
            if section not in content:
                raise InputError(
                    f"annotation file '{path}' lacks the key '{section}' of a COCO file (it has "
                    f"{', '.join(map(repr, content)) or 'no keys'}); convert it to COCO's format"
                )
        categories = content['categories']
        if isinstance(categories, msgspec.Raw):
            categories = json.loads(bytes(categories))
        check_section(path, 'categories', categories)
        raise_problems(path, find_problems('categories', categories))
        check_unique(path, 'categories', [category['id'] for category in categories])
        builder = ColumnsBuilder(path, categories, self._segmentations)
        self._read_list('images', content['images'], builder)
        self._check_unique('images', builder.image_ids)
        if 'annotations' in content:
            builder.annotated = True
            self._read_list('annotations', content['annotations'], builder)
        columns = builder.build()
        self._check_unique('annotations', columns.ids)
        return columns

    def _check_unique(self, section: str, ids: IdColumn) -> None:
        if isinstance(ids.values, np.ndarray):
            ordered = np.sort(ids.values)
            if (ordered[1:] != ordered[:-1]).all():
                return
        check_unique(self._path, section, ids)

    def _read_list(self, section: str, content: Any, builder: ColumnsBuilder) -> None:
        """Adds the entries of a section."""
        if section == 'images':
            kind, convert = _Image, self._image_columns
            add, add_entries = builder.add_images, builder.add_image_entries
        else:
            kind = _MaskedAnnotation if self._segmentations else _Annotation
            convert = self._annotation_columns
            add, add_entries = builder.add_annotations, builder.add_annotation_entries
        if isinstance(content, msgspec.Raw):
            text = memoryview(content)
            is_list = text[0] == ord('[')
            pieces = _decode_pieces(text, kind, convert) if is_list else (json.loads(bytes(text)),)
        else:
            pieces = (content,)
        problems: dict[str, str] = {}
        count = 0
        for piece in pieces:
            if isinstance(piece, tuple):  # columns
                add(*piece)
                count += len(piece[0])
                continue
            check_section(self._path, section, piece)
            derived = derive_fields(section, piece, builder.size_of)
            if derived:
                builder.derived[DERIVED[section]] += derived
            problems.update(find_problems(section, piece, count, self._sizes))
            count += len(piece)
            if not problems:
                add_entries(piece)
        raise_problems(self._path, problems)

    def _image_columns(self, images: Sequence[_Image]) -> tuple[Sequence[Any], ...] | None:
        """Returns the columns of images; ``None`` if one of them needs a closer look."""
        names = [image.file_name for image in images]
        widths, heights = ([getattr(i, key) or 0 for i in images] for key in ('width', 'height'))
        sides = np.array([widths, heights], dtype=float)
        if not all(names) or (sides < 0).any() or (sides >= LARGEST).any():
            return None
        if self._sizes and not sides.all():
            return None
        return [image.id for image in images], names, *sides

    def _annotation_columns(
        self, annotations: Sequence[_Annotation]
    ) -> tuple[Sequence[Any], ...] | None:
        """Returns the columns of annotations; ``None`` if one of them needs a closer look."""
        boxes = np.fromiter(
            chain.from_iterable([annotation.bbox for annotation in annotations]),
            float,
            4 * len(annotations),
        ).reshape(-1, 4)
        areas = np.array([annotation.area for annotation in annotations], dtype=float)
        # A box of zeros may be that of the segmentation.
        if (np.abs(boxes) >= LARGEST).any() or not boxes.any(axis=1).all():
            return None
        if (np.abs(areas) >= LARGEST).any():
            return None
        return (
            [annotation.id for annotation in annotations],
            [annotation.image_id for annotation in annotations],
            [annotation.category_id for annotation in annotations],
            boxes,
            areas,
            [annotation.iscrowd for annotation in annotations],
            [annotation.ignore for annotation in annotations],
            [_segmentation(annotation.segmentation) for annotation in annotations]
            if self._segmentations
            else (),
        )


def _decode_pieces(
    text: memoryview, kind: type, convert: Callable[[Sequence[Any]], tuple | None]
) -> Iterator[tuple | list[Any]]:
    """Yields the content of a JSON list, some of its entries at a time.

    Args:
        text: The list, without errors of syntax.
        kind: Type of the entries.
        convert: Returns the columns of entries, or ``None`` if one of them needs a closer look.

    Yields:
        Columns; or entries as Python objects, where one is not of the type or needs a closer look.
    """
    decoder = msgspec.json.Decoder(list[kind])
    start, end, size = 1, len(text) - 1, _PIECE
    while start < end:
        between = _BETWEEN.search(text, min(start + size, end))
        stop = between.start(1) if between else end
        piece = b''.join((b'[', text[start:stop], b']'))
        found: Any = None
        try:
            found = convert(decoder.decode(piece))
        except ValueError:
            pass
        try:
            found = json.loads(piece.decode()) if found is None else found
        except ValueError:
            # The piece ends inside of an entry, since what begins at the beginning of an entry and
            # can be decoded ends at the end of one.
            if stop == end:
                raise
            size *= 2
            continue
        yield found
        start, size = stop + 1, _PIECE


def _segmentation(text: msgspec.Raw) -> bytes:
    return b'' if bytes(text) in _NO_SEGMENTATION else bytes(text)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python from searching many new objects, none of which is in a cycle, for garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
