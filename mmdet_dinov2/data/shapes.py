"""A generated dataset of shapes in COCO's format, to try configs without a download."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import InputError
from ..wording import name_some
from .shapes_drawing import CLASSES, draw_picture
from .shapes_scenes import Scene, draw_scene

# Raise it when the same arguments give different files, so that old folders are not reused.
GENERATOR_VERSION = 2
# The same pictures and boxes, without polygons.
_WITHOUT_POLYGONS = 1
MARKER_FILE = 'shapes.json'
SPLITS = ('train', 'val')
MAX_SHAPES = 4
# One image in so many has no objects, from the 13th on.
EMPTY_PERIOD = 25
_FIRST_EMPTY = 12
_JPEG_QUALITY = 92


def generate_shapes(
    root: str | os.PathLike,
    num_train: int = 400,
    num_val: int = 100,
    seed: int = 0,
    scene: Mapping[str, int] | None = None,
) -> Path:
    """Generates the shapes dataset in a folder, unless the folder already holds it.

    The folder gets ``annotations/train.json`` and ``annotations/val.json`` in COCO's format, the
    images in ``train/`` and ``val/``, and ``shapes.json`` with the arguments. It appears complete
    or not at all, so any number of processes may call this at the same time. An image depends only
    on the seed, its split and its index: a small dataset is the beginning of a large one. The
    annotation files of a folder of the first version, which have no polygons, are replaced.

    Args:
        root: The folder to create. It may exist if it is empty.
        num_train: Number of training images.
        num_val: Number of validation images.
        seed: Non-negative seed of all random choices.
        scene: Attributes of a :class:`.shapes_scenes.Scene`: draws large images with many small
            shapes; an empty dict takes its default values. None draws small images.

    Returns:
        ``root`` as a path.

    Raises:
        InputError: If an argument is out of range, or if ``root`` holds anything but this dataset.
            Nothing is ever overwritten.
    """
    arguments: dict[str, Any] = dict(
        num_train=_whole_number('num_train', num_train, minimum=1),
        num_val=_whole_number('num_val', num_val, minimum=1),
        seed=_whole_number('seed', seed, minimum=0),
    )
    if scene is not None:
        arguments['scene'] = asdict(Scene.of(scene))
    target = Path(root).resolve()
    if not _is_generated(target, arguments):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{target.name}-', dir=target.parent) as folder:
            # A new folder inside, because only its owner can read the temporary one.
            draft = Path(folder) / target.name
            _write_dataset(draft, arguments)
            _publish(draft, target, arguments)
    return Path(root)


def shapes_annotations(root: str | os.PathLike) -> list[Path]:
    """Returns the annotation files of a shapes dataset."""
    return [Path(root) / 'annotations' / f'{split}.json' for split in SPLITS]


def _whole_number(name: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise InputError(f'{name} must be a whole number of at least {minimum}, but is {value!r}')
    return int(value)


def _is_generated(root: Path, arguments: dict[str, Any]) -> bool:
    """Returns whether ``root`` holds this dataset; raises if it holds other files."""
    if not os.path.lexists(root):
        return False
    if not root.is_dir():
        raise InputError(
            f"the shapes dataset cannot be created at '{root}', because a file has this name; "
            'choose a different folder (`sample_data.root` in a config)'
        )
    names = sorted(os.listdir(root))
    if not names:
        return False
    if MARKER_FILE not in names:
        raise InputError(
            f"the shapes dataset cannot be created in '{root}', because the folder holds "
            f'{name_some(names, limit=3)}; choose an empty or new folder (`sample_data.root` in a '
            'config)'
        )
    expected = _marker(arguments)
    try:
        found = json.loads((root / MARKER_FILE).read_text())
    except ValueError:
        found = 'unreadable arguments'
    if found == dict(expected, generator_version=_WITHOUT_POLYGONS):
        _add_polygons(root, arguments)
    elif found != expected:
        raise InputError(
            f"the shapes dataset in '{root}' was generated with {_in_words(found)}, but "
            f'{_in_words(expected)} is requested; use the same arguments (`sample_data` in a '
            'config), choose a different folder, or delete it'
        )
    return True


def _marker(arguments: dict[str, Any]) -> dict[str, Any]:
    return dict(generator_version=GENERATOR_VERSION, **arguments)


def _in_words(marker: Any) -> str:
    if isinstance(marker, dict):
        return ', '.join(f'{key}={value}' for key, value in marker.items())
    return str(marker)


def _publish(draft: Path, root: Path, arguments: dict[str, Any]) -> None:
    """Renames the finished draft to ``root``, unless the same dataset is already there."""
    try:
        os.rename(draft, root)
    except OSError:
        if not _is_generated(root, arguments):
            raise


def _add_polygons(root: Path, arguments: dict[str, Any]) -> None:
    """Replaces the annotation files of a dataset that was drawn without polygons.

    Processes that do so at the same time write the same files. A folder that cannot be written
    stays as it is: its boxes are right, and the check of a config that needs masks says that there
    are none.
    """
    with suppress(OSError), tempfile.TemporaryDirectory(prefix='.polygons-', dir=root) as folder:
        draft = Path(folder)
        for split in SPLITS:
            _write_split(draft, split, arguments, with_pictures=False)
        for path in shapes_annotations(draft):
            os.replace(path, root / path.relative_to(draft))
        _write_marker(draft, arguments)
        os.replace(draft / MARKER_FILE, root / MARKER_FILE)


def _write_dataset(root: Path, arguments: dict[str, Any]) -> None:
    for split in SPLITS:
        _write_split(root, split, arguments)
    _write_marker(root, arguments)


def _write_marker(root: Path, arguments: dict[str, Any]) -> None:
    (root / MARKER_FILE).write_text(json.dumps(_marker(arguments), indent=2) + '\n')


def _write_split(
    root: Path, split: str, arguments: dict[str, Any], with_pictures: bool = True
) -> None:
    count, seed = arguments[f'num_{split}'], arguments['seed']
    scene = Scene(**arguments['scene']) if 'scene' in arguments else None
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (root / split).mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        is_empty = index % EMPTY_PERIOD == _FIRST_EMPTY
        if scene is not None:
            picture, shapes = draw_scene(rng, scene, is_empty)
        else:
            num_shapes = 0 if is_empty else int(rng.integers(1, MAX_SHAPES + 1))
            picture, shapes = draw_picture(rng, num_shapes)
        height, width = picture.shape[:2]
        # Ids count from 1: COCO's evaluation reads an annotation id of 0 as "not matched".
        image_id = index + 1
        name = f'{image_id:06d}.jpg'
        if with_pictures:
            _write_jpeg(root / split / name, picture)
        images.append(dict(id=image_id, file_name=name, width=width, height=height))
        for shape in shapes:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=shape.label + 1,
                    bbox=[float(value) for value in shape.box],
                    area=float(shape.area),
                    iscrowd=0,
                    segmentation=[list(polygon) for polygon in shape.polygons],
                )
            )
    content = dict(
        info=dict(description=f'Generated shapes, {split} split', version=str(GENERATOR_VERSION)),
        images=images,
        annotations=annotations,
        categories=[dict(id=label + 1, name=name) for label, name in enumerate(CLASSES)],
    )
    path = root / 'annotations' / f'{split}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content) + '\n')


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    # Not cv2.imwrite, which reports a full disk by its return value only.
    _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    path.write_bytes(data.tobytes())
