"""Checks that open the image files of a dataset."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..wording import name_some
from .annotation_columns import AnnotationColumns
from .coco_file import leaves_folder, names_outside
from .dataset_source import DatasetSource, is_remote
from .findings import Finding
from .image_header import (
    MAX_PIXELS,
    ImageHeader,
    check_size,
    ignores_orientation,
    read_header,
)
from .image_pixels import read_pixels, to_8_bits, value_range
from .near_duplicates import SIDE, Thumbnails, find_copies, thumbnail


@dataclass(frozen=True)
class InspectedImage:
    """What is known of an image file after reading it.

    Attributes:
        header: What it declares; ``None`` if the header cannot be read.
        digest: Hash of its bytes; empty if they cannot be read.
        problem: Why the image cannot be used; empty if it can.
        depth: Bits and range of its values, if they have more than 8 bits; otherwise empty.
        thumbnail: Bytes of its thumbnail; empty if the image cannot be used.
    """

    header: ImageHeader | None
    digest: bytes
    problem: str
    depth: str = ''
    thumbnail: bytes = b''


def inspect_image(path: str) -> InspectedImage:
    """Reads, hashes and decodes an image file."""
    header, digest = None, b''
    try:
        with open(path, 'rb') as file:
            content = file.read()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        header = read_header(content)
        check_size(header, MAX_PIXELS)
        pixels = read_pixels(content, header)
    except (InputError, OSError) as error:
        return InspectedImage(header, digest, str(error))
    depth = ''
    if pixels.dtype != np.uint8:
        low, high = value_range(pixels)
        depth = f'{8 * pixels.dtype.itemsize} bits, {low:g} to {high:g}'
    small = thumbnail(to_8_bits(pixels)).tobytes()
    return InspectedImage(header, digest, '', depth, small)


def image_paths(source: DatasetSource, coco: AnnotationColumns) -> dict[str, int]:
    """Returns the positions of the images that exist, by the path of their file."""
    root = source.image_folder
    if root is None or is_remote(root, source.config):
        return {}
    names = enumerate(coco.file_names)
    if names_outside(root, coco.file_names):
        names = [(index, name) for index, name in names if not leaves_folder(root, name)]
    places = {os.path.join(root, name): index for index, name in names}
    return {path: index for path, index in places.items() if os.path.lexists(path)}


def inspect_images(
    paths: Iterable[str], workers: int, progress: Callable[[], None] = lambda: None
) -> dict[str, InspectedImage]:
    """Inspects image files, several at a time.

    Args:
        paths: The files.
        workers: Number of threads; decoding and hashing release Python's global lock.
        progress: Called after each file.
    """
    inspected = {}
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for path, result in zip(paths, pool.map(inspect_image, paths), strict=True):
            inspected[path] = result
            progress()
    return inspected


def check_inspected(
    source: DatasetSource,
    coco: AnnotationColumns,
    places: Mapping[str, int],
    inspected: Mapping[str, InspectedImage],
) -> list[Finding]:
    """Checks the images of a dataset against their entries in the annotation file.

    Args:
        source: The dataset.
        coco: Its annotation file.
        places: Positions of its images by path; see :func:`image_paths`.
        inspected: Inspected files by path; see :func:`inspect_images`.
    """
    broken, wrong_size, unrotated, ambiguous, deep = [], [], [], [], []
    for path, index in places.items():
        result = inspected[path]
        if result.problem:
            broken.append(f'{path}: {result.problem}')
            continue
        header, annotated, file_name = result.header, coco.size(index), coco.file_names[index]
        if result.depth:
            deep.append(f'{file_name}: {result.depth}')
        name = f'{file_name} ({header.orientation})'
        if ignores_orientation(header, annotated):
            unrotated.append(name)
        elif annotated != header.shown_size:
            width, height = header.shown_size
            wrong_size.append(
                f'{file_name}: {annotated[0]} x {annotated[1]}, but is {width} x {height}'
            )
        elif header.orientation != 1 and header.stored_size == header.shown_size:
            ambiguous.append(name)
    count = len(places)
    findings = []

    def add(severity: str, found: list[str], text: str) -> None:
        if found:
            message = text.format(name_some(found, limit=5))
            findings.append(Finding(severity, source.split, f'{len(found)} of {count} {message}'))

    add('error', broken, 'images cannot be read ({}); repair or remove them')
    add(
        'error',
        wrong_size,
        'images do not have the size in the annotation file ({}), so the boxes may belong to '
        'different images; correct the sizes, or export the images again',
    )
    if source.by_name:
        add(
            'info',
            unrotated,
            'images have an EXIF rotation that their annotations ignore (orientation in brackets: '
            '{}); they are loaded without it',
        )
    else:
        add(
            'error',
            unrotated,
            'images have an EXIF rotation that their annotations ignore (orientation in brackets: '
            f'{{}}) but mmdet applies; set `{source.key}.type` to '
            "'ClassNameCocoDataset', which ignores it too, or rotate the files",
        )
    add(
        'warning',
        ambiguous,
        'images have an EXIF orientation (in brackets: {}) that is applied when they are loaded, '
        'and their size does not show whether the annotations apply it too; look at their boxes in '
        'the picture of this check',
    )
    add(
        'info',
        deep,
        'images have values of more than 8 bits ({}); when one is loaded, its lowest value becomes '
        '0 and its highest 255',
    )
    return findings


def check_shared_images(
    places: Mapping[DatasetSource, Iterable[str]],
    inspected: Mapping[str, InspectedImage],
) -> list[Finding]:
    """Checks that no image is in the training data and in scored data, or twice in a split.

    Args:
        places: Paths of the images of every dataset.
        inspected: Inspected files by path.
    """
    paths: dict[str, dict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
    for source, images in places.items():
        for path in images:
            if inspected[path].digest and path not in paths[source.split][inspected[path].digest]:
                paths[source.split][inspected[path].digest].append(path)
    findings = []
    for split, by_digest in paths.items():
        twice = [same for same in by_digest.values() if len(same) > 1]
        if twice:
            examples = [' = '.join(map(os.path.basename, same[:3])) for same in twice]
            findings.append(
                Finding(
                    'warning',
                    split,
                    f'{len(twice)} images exist more than once under different names '
                    f'({name_some(examples, limit=3)}); keep one of each',
                )
            )
        shared = [digest for digest in by_digest if digest in paths.get('train', {})]
        if split != 'train' and shared:
            examples = [f'{by_digest[d][0]} = {paths["train"][d][0]}' for d in shared]
            findings.append(
                Finding(
                    'warning',
                    split,
                    f'{len(shared)} of {len(by_digest)} images are also in the training data '
                    f'({name_some(examples, limit=3)}), so the scores are too high; remove them '
                    'from one of the two',
                )
            )
    return findings


def check_near_duplicates(
    places: Mapping[DatasetSource, Iterable[str]],
    inspected: Mapping[str, InspectedImage],
) -> list[Finding]:
    """Checks that no scored image is one of the training, resized, compressed again or mirrored.

    Images with the same bytes are left to :func:`check_shared_images`.

    Args:
        places: Paths of the images of every dataset.
        inspected: Inspected files by path.
    """
    paths: dict[str, dict[str, None]] = defaultdict(dict)
    for source, images in places.items():
        paths[source.split].update((p, None) for p in images if inspected[p].thumbnail)
    train = list(paths.pop('train', ()))
    digests = {inspected[path].digest for path in train}
    findings = []
    for split, images in paths.items():
        others = [path for path in images if inspected[path].digest not in digests]
        copies = find_copies(_thumbnails(others, inspected), _thumbnails(train, inspected))
        found = [f'{others[place]} = {train[copies.index[place]]}' for place in copies.found]
        if found:
            findings.append(
                Finding(
                    'warning',
                    split,
                    f'{len(found)} of {len(images)} images look like images of the training data '
                    f'that are resized, compressed again or mirrored ({name_some(found, limit=3)}'
                    '), so the scores are too high; look at them, and remove them from one of the '
                    'two',
                )
            )
    return findings


def _thumbnails(paths: Sequence[str], inspected: Mapping[str, InspectedImage]) -> Thumbnails:
    grey = b''.join(inspected[path].thumbnail for path in paths)
    return Thumbnails(np.frombuffer(grey, np.uint8).reshape(-1, SIDE, SIDE))
