"""The content of a COCO annotation file as columns: one array per field, over all entries.

COCO with its 860,000 boxes takes 60 MB as columns and ten times that as Python objects, and
processes can map the same columns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np


class TextColumn(Sequence[str]):
    """Texts, one after the other in one array of bytes.

    Args:
        content: UTF-8, (B,) uint8.
        ends: Where each text ends, (N,) int64.
    """

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.content = content
        self.ends = ends

    @classmethod
    def of(cls, parts: Sequence[bytes]) -> TextColumn:
        """Returns a column of texts that are encoded already."""
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        return cls(np.frombuffer(b''.join(parts), np.uint8), ends)

    @classmethod
    def encode(cls, texts: Sequence[str]) -> TextColumn:
        """Returns a column of texts."""
        # JSON can name surrogates alone, as for file names that are no UTF-8.
        return cls.of([text.encode('utf-8', 'surrogatepass') for text in texts])

    def raw(self, index: int) -> bytes:
        """Returns a text as it is stored."""
        start = self.ends[index - 1] if index > 0 else 0
        return self.content[start : self.ends[index]].tobytes()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.raw(index % len(self)).decode('utf-8', 'surrogatepass')

    def __iter__(self) -> Iterator[str]:
        content, start = self.content.tobytes(), 0
        for end in self.ends.tolist():
            yield content[start:end].decode('utf-8', 'surrogatepass')
            start = end


class IdColumn(Sequence[int | str]):
    """Ids, which are whole numbers of any size or texts.

    Args:
        values: (N,) int64; or, if any of them does not fit there, the JSON of each.
    """

    def __init__(self, values: np.ndarray | TextColumn) -> None:
        self.values = values

    @classmethod
    def of(cls, ids: Sequence[int | str]) -> IdColumn:
        """Returns a column of ids."""
        numbers = _whole_numbers(ids)
        if numbers is not None:
            return cls(numbers)
        return cls(TextColumn.of([json.dumps(value).encode() for value in ids]))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> int | str:
        if isinstance(self.values, TextColumn):
            return json.loads(self.values[index])
        return self.values[index].item()

    def __iter__(self) -> Iterator[int | str]:
        if isinstance(self.values, TextColumn):
            return map(json.loads, self.values)
        return iter(self.values.tolist())


def _whole_numbers(ids: Sequence[int | str]) -> np.ndarray | None:
    """Returns ids as int64; ``None`` if one is a text, or too large."""
    numbers = np.array(ids) if len(ids) else np.zeros(0, np.int64)
    return numbers if numbers.dtype == np.int64 else None


@dataclass(frozen=True, eq=False)
class AnnotationColumns:
    """The content of a COCO annotation file, every entry checked. N images, A annotations.

    All arrays are read-only, in the order of the file.

    Attributes:
        path: The file.
        categories: Dicts with ``id`` and ``name`` and whatever else the file has.
        image_ids: Ids of the images, (N,).
        file_names: Their files, (N,).
        widths: Their widths in pixels, (N,) float64. 0 stands for a size that the file lacks, where
            that is allowed.
        heights: Their heights, likewise.
        annotated: Whether the file has annotations at all, in contrast to those of test sets whose
            annotations are not published.
        ids: Ids of the annotations, (A,).
        image_index: Position of the image of each annotation in the columns of images, (A,) int32.
            -1 - k stands for ``unlisted_images[k]``.
        category_index: Position of its category in ``categories``, (A,) int32. -1 - k stands for
            ``unlisted_categories[k]``.
        boxes: Boxes as ``x, y, width, height`` in pixels, (A, 4) float64.
        areas: Areas in square pixels, (A,) float64: those of the boxes where the file has none.
        crowd: Whether each is a crowd region, (A,) bool.
        ignored: Whether each is marked ``ignore``, (A,) bool.
        has_area: Whether the file gives the area, (A,) bool.
        has_iscrowd: Whether the file gives ``iscrowd``, (A,) bool.
        segmentations: JSON of each segmentation, empty where there is none, (A,); ``None`` if they
            were not read.
        order: Positions of the annotations by image, (A,) int32, after those of unlisted images.
        starts: Where the annotations of each image begin and end in ``order``, (N + 1,) int64.
        unlisted_images: Ids of images that annotations have and the file does not list.
        unlisted_categories: Ids of categories that annotations have and the file does not list.
        derived: Numbers of entries whose ``'bbox'`` comes from their segmentation, or whose
            ``'file_name'`` from their ``coco_url``.
    """

    path: str
    categories: Sequence[dict[str, Any]]
    image_ids: IdColumn
    file_names: TextColumn
    widths: np.ndarray
    heights: np.ndarray
    annotated: bool
    ids: IdColumn
    image_index: np.ndarray
    category_index: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    has_area: np.ndarray
    has_iscrowd: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    segmentations: TextColumn | None = None
    unlisted_images: Sequence[int | str] = ()
    unlisted_categories: Sequence[int | str] = ()
    derived: Counter[str] = field(default_factory=Counter)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.widths)

    @property
    def num_annotations(self) -> int:
        """Number of annotations."""
        return len(self.areas)

    @property
    def has_sizes(self) -> bool:
        """Whether all images have a size."""
        return bool(self.widths.all() and self.heights.all())

    @property
    def category_names(self) -> list[str]:
        """Names in the order of the file, in which mmdet's ``CocoDataset`` numbers labels."""
        return [category['name'] for category in self.categories]

    def size(self, index: int) -> tuple[float, float]:
        """Returns width and height of an image; whole ones as integers, as files have them."""
        return _plain(self.widths[index]), _plain(self.heights[index])

    def image(self, index: int) -> dict[str, Any]:
        """Returns an image as the file has it: ``id``, ``file_name``, ``width``, ``height``."""
        width, height = self.size(index)
        return dict(
            id=self.image_ids[index], file_name=self.file_names[index], width=width, height=height
        )

    def annotation(self, index: int) -> dict[str, Any]:
        """Returns an annotation; see :meth:`annotations`."""
        return self.annotations(np.array([index]))[0]

    def annotations(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """Returns annotations as the file has them, with ``area`` and flags filled in.

        ``segmentation`` is there if it says something.

        Args:
            indices: Their positions, (K,).
        """
        entries = [
            dict(
                id=self.ids[index],
                image_id=self.image_id(index),
                category_id=self.category_id(index),
                bbox=box,
                area=area,
                iscrowd=int(crowd),
                ignore=int(ignored),
            )
            for index, box, area, crowd, ignored in zip(
                indices.tolist(),
                self.boxes[indices].tolist(),
                self.areas[indices].tolist(),
                self.crowd[indices].tolist(),
                self.ignored[indices].tolist(),
                strict=True,
            )
        ]
        if self.segmentations is not None:
            for index, entry in zip(indices.tolist(), entries, strict=True):
                raw = self.segmentations.raw(index)
                if raw:
                    entry['segmentation'] = json.loads(raw)
        return entries

    def image_id(self, annotation: int) -> int | str:
        """Returns the ``image_id`` of an annotation."""
        index = int(self.image_index[annotation])
        return self.image_ids[index] if index >= 0 else self.unlisted_images[-1 - index]

    def category_id(self, annotation: int) -> int | str:
        """Returns the ``category_id`` of an annotation."""
        index = int(self.category_index[annotation])
        return self.categories[index]['id'] if index >= 0 else self.unlisted_categories[-1 - index]

    def annotations_of(self, image: int) -> np.ndarray:
        """Returns the positions of the annotations of an image, in the order of the file."""
        return self.order[self.starts[image] : self.starts[image + 1]]

    @cached_property
    def image_positions(self) -> Mapping[int | str, int]:
        """Position of each image by its id."""
        return {key: index for index, key in enumerate(self.image_ids)}

    def __deepcopy__(self, memo: dict) -> AnnotationColumns:
        return self  # nobody changes it


def _plain(side: np.float64) -> float:
    value = side.item()
    return int(value) if value.is_integer() else value


class ColumnsBuilder:
    """Collects the columns of an annotation file: images first, then annotations, piece by piece.

    Args:
        path: The file.
        categories: Its categories.
        segmentations: Whether to keep segmentations.
    """

    def __init__(
        self, path: str, categories: Sequence[dict[str, Any]], segmentations: bool = False
    ) -> None:
        self._path = path
        self._categories = categories
        self._category_places = _Places(IdColumn.of([c['id'] for c in categories]))
        self._image_places: _Places | None = None
        self._parts: dict[str, list] = {name: [] for name in (*_ARRAYS, *_TEXTS)}
        self._masks: list[TextColumn] | None = [] if segmentations else None
        self._sides: list[np.ndarray] | None = None
        self.derived: Counter[str] = Counter()
        self.annotated = False

    def add_images(
        self,
        ids: Sequence[int | str],
        file_names: Sequence[str],
        widths: Sequence[float],
        heights: Sequence[float],
    ) -> None:
        """Adds images; a size of 0 stands for one that is not known."""
        self._add(
            image_ids=_ids(ids),
            file_names=TextColumn.encode(file_names),
            widths=np.array(widths, dtype=float),
            heights=np.array(heights, dtype=float),
        )

    def add_annotations(
        self,
        ids: Sequence[int | str],
        image_ids: Sequence[int | str],
        category_ids: Sequence[int | str],
        boxes: Sequence[Sequence[float]],
        areas: Sequence[float | None],
        crowd: Sequence[bool | None],
        ignored: Sequence[bool | None],
        segmentations: Sequence[bytes] = (),
    ) -> None:
        """Adds annotations; ``None`` stands for what an entry does not have."""
        self.annotated = True
        if self._image_places is None:
            self._image_places = _Places(self.image_ids)
        boxes = np.array(boxes, dtype=float).reshape(-1, 4)
        areas = np.array(areas, dtype=float)  # NaN for None
        has_area = ~np.isnan(areas)
        crowd, has_iscrowd = _flags(crowd)
        self._add(
            ids=_ids(ids),
            image_index=self._image_places.find(image_ids),
            category_index=self._category_places.find(category_ids),
            boxes=boxes,
            areas=np.where(has_area, areas, boxes[:, 2] * boxes[:, 3]),
            has_area=has_area,
            crowd=crowd,
            has_iscrowd=has_iscrowd,
            ignored=_flags(ignored)[0],
        )
        if self._masks is not None:
            self._masks.append(TextColumn.of(segmentations))

    def size_of(self, image_id: int | str) -> tuple[float, float] | None:
        """Returns width and height of an image that was added; ``None`` if they are not known."""
        if self._image_places is None:
            self._image_places = _Places(self.image_ids)
        (index,) = self._image_places.find([image_id])
        if index < 0:
            return None
        if self._sides is None:
            self._sides = [np.concatenate(self._parts[name]) for name in ('widths', 'heights')]
        width, height = (float(sides[index]) for sides in self._sides)
        return (width, height) if width and height else None

    def add_image_entries(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Adds images as the file has them."""
        self.add_images(
            [entry['id'] for entry in entries],
            [entry['file_name'] for entry in entries],
            [entry.get('width') or 0 for entry in entries],
            [entry.get('height') or 0 for entry in entries],
        )

    def add_annotation_entries(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Adds annotations as the file has them."""
        fields = 'id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'ignore'
        columns = ([entry.get(name) for entry in entries] for name in fields)
        parts = (entry.get('segmentation') for entry in entries) if self._masks is not None else ()
        self.add_annotations(
            *columns, [json.dumps(part).encode() if part else b'' for part in parts]
        )

    def _add(self, **parts: Any) -> None:
        for name, part in parts.items():
            self._parts[name].append(part)

    @property
    def image_ids(self) -> IdColumn:
        """Ids of the images so far."""
        return _join_ids(self._parts['image_ids'])

    def build(self) -> AnnotationColumns:
        """Returns the columns."""
        arrays = {
            name: np.concatenate(self._parts.pop(name) or [np.zeros(shape, kind)])
            for name, (kind, shape) in _ARRAYS.items()
        }
        image_index = arrays['image_index']
        order = np.argsort(image_index, kind='stable').astype(np.int32)
        num_images = len(arrays['widths'])
        arrays['order'] = order
        arrays['starts'] = np.searchsorted(image_index[order], np.arange(num_images + 1))
        for array in arrays.values():
            array.flags.writeable = False
        return AnnotationColumns(
            path=self._path,
            categories=self._categories,
            image_ids=self.image_ids,
            file_names=_join_texts(self._parts['file_names']),
            annotated=self.annotated,
            ids=_join_ids(self._parts['ids']),
            segmentations=None if self._masks is None else _join_texts(self._masks),
            unlisted_images=self._image_places.unlisted if self._image_places else (),
            unlisted_categories=self._category_places.unlisted,
            derived=self.derived,
            **arrays,
        )


_ARRAYS = dict(
    widths=(np.float64, 0),
    heights=(np.float64, 0),
    image_index=(np.int32, 0),
    category_index=(np.int32, 0),
    boxes=(np.float64, (0, 4)),
    areas=(np.float64, 0),
    crowd=(bool, 0),
    ignored=(bool, 0),
    has_area=(bool, 0),
    has_iscrowd=(bool, 0),
)
_TEXTS = ('image_ids', 'file_names', 'ids')


def _ids(ids: Sequence[int | str]) -> np.ndarray | list[int | str]:
    numbers = _whole_numbers(ids)
    return list(ids) if numbers is None else numbers


def _join_ids(parts: Sequence[np.ndarray | list[int | str]]) -> IdColumn:
    if all(isinstance(part, np.ndarray) for part in parts):
        return IdColumn(np.concatenate([np.zeros(0, np.int64), *parts]))
    return IdColumn.of([int(v) if isinstance(v, np.int64) else v for part in parts for v in part])


def _join_texts(parts: Sequence[TextColumn]) -> TextColumn:
    starts = np.cumsum([0, *(len(part.content) for part in parts)])
    ends = [part.ends + start for part, start in zip(parts, starts[:-1], strict=True)]
    return TextColumn(
        np.concatenate([np.zeros(0, np.uint8), *(part.content for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *ends]),
    )


class _Places:
    """Finds the positions of ids.

    Args:
        ids: The ids that are listed.
    """

    def __init__(self, ids: IdColumn) -> None:
        self._ids = ids
        self._unlisted: dict[int | str, int] = {}
        # A table of the positions of whole numbers that are close together.
        self._table: np.ndarray | None = None
        if isinstance(ids.values, np.ndarray) and len(ids):
            self._low, self._high = int(ids.values.min()), int(ids.values.max())
            if self._high - self._low < _MAX_SPREAD * len(ids):
                self._table = np.full(self._high - self._low + 1, _UNKNOWN, dtype=np.int32)
                self._table[ids.values - self._low] = np.arange(len(ids))

    @property
    def unlisted(self) -> tuple[int | str, ...]:
        """What was looked for and is not listed, in the order of the first time."""
        return tuple(self._unlisted)

    @cached_property
    def _positions(self) -> dict[int | str, int]:
        return {key: index for index, key in enumerate(self._ids)}

    def find(self, ids: Sequence[int | str]) -> np.ndarray:
        """Returns the position of each id, int32; -1 - k for ``unlisted[k]``."""
        numbers = None if self._table is None else _whole_numbers(ids)
        if numbers is None:
            found = [self._positions.get(key, _UNKNOWN) for key in ids]
            places = np.array(found, dtype=np.int32)
        else:
            places = np.full(len(numbers), _UNKNOWN, dtype=np.int32)
            inside = (numbers >= self._low) & (numbers <= self._high)
            places[inside] = self._table[numbers[inside] - self._low]
        for index in np.flatnonzero(places == _UNKNOWN).tolist():
            places[index] = -1 - self._unlisted.setdefault(ids[index], len(self._unlisted))
        return places


_UNKNOWN = np.iinfo(np.int32).min
# Numbers in the range of ids for each id.
_MAX_SPREAD = 32


def _flags(values: Sequence[bool | None]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which values are 1, and which are not ``None``, as bool."""
    missing = values.count(None)
    if missing == len(values):
        return np.zeros(missing, dtype=bool), np.zeros(missing, dtype=bool)
    if not missing:
        return np.array(values, dtype=bool), np.ones(len(values), dtype=bool)
    numbers = np.array(values, dtype=float)
    return numbers == 1, ~np.isnan(numbers)
