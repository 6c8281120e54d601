"""What a folder looks like in which no dataset was found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...wording import name_some
from ..data_folder import DataFolder
from ..text_file import read_json, read_text
from .json_kinds import json_kind
from .pascal_voc import is_pascal_voc
from .yolo import find_data_yaml
from .yolo_labels import looks_like_labels

_BEGINNING = 4096
_VIDEOS = ('.mp4', '.avi', '.mov', '.mkv')
_ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.rar', '.7z')
_DOTA = re.compile(r'(\s*-?[\d.]+){8}\s+\S*[^\d.\s]\S*')
# Files of a kind that are looked at, so that a wrong folder is soon known.
_MAX_LOOKED_AT = 200


@dataclass(frozen=True)
class _Sign:
    """What a kind of files looks like, how it is recognised, and what to do with it."""

    what: str
    suffixes: tuple[str, ...]
    holds: Callable[[Path], bool]
    remedy: str


def _begins(*words: str) -> Callable[[Path], bool]:
    def holds(path: Path) -> bool:
        with path.open('rb') as file:
            beginning = file.read(_BEGINNING).decode(errors='replace')
        return all(word in beginning for word in words)

    return holds


def _is_dota(path: Path) -> bool:
    try:
        return any(_DOTA.match(line) for line in read_text(path).splitlines()[:4])
    except InputError:
        return False


def _is_list_with(*keys: str) -> Callable[[Path], bool]:
    def holds(path: Path) -> bool:
        try:
            content = read_json(path)
        except InputError:
            return False
        first = content[0] if isinstance(content, list) and content else None
        return isinstance(first, dict) and first.keys() >= set(keys)

    return holds


def _always(path: Path) -> bool:
    return True


_AS_COCO = 'export them in COCO format'
_SIGNS = (
    _Sign('COCO annotations', ('.json',), lambda path: json_kind(path) == 'coco', ''),
    _Sign('XML annotations of Pascal VOC', ('.xml',), is_pascal_voc, ''),
    _Sign('labelme annotations', ('.json',), lambda path: json_kind(path) == 'labelme', ''),
    _Sign(
        'XML annotations of CVAT for images',
        ('.xml',),
        _begins('<annotations>'),
        'export them from CVAT as COCO 1.0',
    ),
    _Sign(
        "detections in COCO's form for results",
        ('.json',),
        _is_list_with('image_id', 'bbox', 'score'),
        'give the annotations, not the results of a model',
    ),
    _Sign(
        'annotations in the JSON of Label Studio',
        ('.json',),
        _is_list_with('annotations', 'data'),
        'export them from Label Studio as COCO',
    ),
    _Sign('annotations of CreateML', ('.json',), _is_list_with('image', 'annotations'), _AS_COCO),
    _Sign(
        'annotations of the VGG Image Annotator',
        ('.json',),
        _begins('region'),
        'export them from it in COCO format',
    ),
    _Sign(
        'oriented boxes in the text form of DOTA',
        ('.txt',),
        _is_dota,
        'convert them to COCO or YOLO, with upright boxes',
    ),
    _Sign(
        'label files of YOLO',
        ('.txt',),
        looks_like_labels,
        "write a data.yaml with 'train', 'val' and 'names', or a classes.txt with one name a line",
    ),
    _Sign('a table of boxes', ('.csv',), _begins(',', 'x'), _AS_COCO),
    _Sign('TFRecord files', ('.tfrecord', '.tfrecords', '.record'), _always, _AS_COCO),
    _Sign('Parquet files', ('.parquet',), _always, _AS_COCO),
    _Sign('archives', _ARCHIVES, _always, 'unpack them'),
    _Sign('videos', _VIDEOS, _always, 'extract pictures and annotate them'),
)


def describe_folder(folder: DataFolder) -> str:
    """Returns what a folder holds and what is missing, as the end of a sentence."""
    parts, remedies = [], []
    for sign in _SIGNS:
        files = _files_of(folder, sign)
        if files:
            parts.append(f'{sign.what} in {_places(folder, files)}')
            if sign.remedy:
                remedies.append(sign.remedy)
    if not folder.files:
        return _names(folder)
    if not folder.images:
        lack = 'no pictures'
    else:
        parts.append(f'{len(folder.images)} pictures in {_places(folder, folder.images)}')
        lack = '' if remedies or len(parts) > 1 else 'no annotations'
    if not parts:
        return f'it has files such as {name_some([path.name for path in folder.files], limit=8)}'
    text = f'it looks like {" and ".join(parts)}'
    text += f', but {lack} were found' if lack else ''
    return f'{text}; {", and ".join(remedies)}' if remedies else text


def name_other_formats(folder: DataFolder, used: str) -> list[str]:
    """Returns a note for each kind of annotations besides the format that is used."""
    notes = []
    with suppress(InputError):
        path = find_data_yaml(folder.root) if used == 'COCO' else None
        if path is not None:
            notes.append(_unused(f'the YOLO data file {path.name}', used))
    for sign, format_ in zip(_SIGNS, ('COCO', 'Pascal VOC', 'labelme'), strict=False):
        files = _files_of(folder, sign) if format_ != used else []
        if files and not (used == 'COCO' and format_ == 'labelme'):
            notes.append(_unused(f'{sign.what} in {_places(folder, files)}', used))
    return notes


def _unused(what: str, used: str) -> str:
    return (
        f'not used: {what}, because the folder has annotations in the format of {used} too; give a '
        'folder without those to use it'
    )


def _files_of(folder: DataFolder, sign: _Sign) -> list[Path]:
    files = folder.with_suffix(*sign.suffixes)
    looked_at = files[:_MAX_LOOKED_AT]
    found = []
    for path in looked_at:
        try:
            if sign.holds(path):
                found.append(path)
        except OSError:
            continue
    return found


def _places(folder: DataFolder, files: Sequence[Path]) -> str:
    counts = Counter('/'.join(folder.parts(path)) for path in files)
    names = [f'{name}/' if name else 'the folder itself' for name, _ in counts.most_common(3)]
    return ', '.join(names) + (', ...' if len(counts) > 3 else '')


def _names(folder: DataFolder) -> str:
    names = sorted(entry.name + '/' * entry.is_dir() for entry in folder.root.iterdir())
    return f'it holds {name_some(names, limit=8)}, but no files' if names else 'it is empty'
