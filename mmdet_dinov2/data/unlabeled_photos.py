"""Folders of photos without labels, apart from the photos that are labeled."""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS

from ..errors import InputError, MissingFileError
from ..wording import name_some
from .annotation_file import read_annotations
from .data_folder import DataFolder
from .dataset_source import is_remote, iter_dataset_configs, read_source
from .image_header import MAX_PIXELS, check_size, read_header
from .known_photos import KnownPhotos
from .splits import SPLITS

# Splits that scores are measured on.
_SCORED = ('val', 'test')


@dataclass(frozen=True)
class UnlabeledPhotos:
    """The photos of a folder that have no labels.

    Attributes:
        folder: Absolute path of the folder.
        names: Their files, relative to the folder, sorted within each folder.
        labeled: Files of the folder that are photos of a split, by its name; they are not among
            ``names``.
        dead_links: Links of the folder that lead nowhere.
    """

    folder: Path
    names: tuple[str, ...]
    labeled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dead_links: tuple[str, ...] = ()

    @property
    def paths(self) -> Iterator[Path]:
        """Absolute paths of the photos."""
        return (self.folder / name for name in self.names)

    def sizes(self) -> Iterator[tuple[str, tuple[int, int] | InputError]]:
        """Reads the headers of the photos.

        Yields:
            The name of each photo, and its width and height in pixels as it is shown, or why it
            cannot be used.
        """
        for name in self.names:
            try:
                header = read_header(self.folder / name)
                check_size(header, MAX_PIXELS)
                yield name, header.shown_size
            except (InputError, OSError) as error:
                yield name, InputError(str(error))

    def refuse_leaks(self) -> None:
        """Checks that no photo of the folder is one that scores are measured on.

        Raises:
            InputError: If there are photos of the val or the test split.
        """
        for split in _SCORED:
            found = self.labeled.get(split)
            if found:
                raise InputError(
                    f'{len(found)} photos in {self.folder} are photos of the {split} split '
                    f'({name_some(found, limit=3)}): learning from them would make the scores too '
                    'high; give a folder without them'
                )


def find_unlabeled_photos(
    folder: str | os.PathLike, labeled: Mapping[str, Iterable[str | os.PathLike]]
) -> UnlabeledPhotos:
    """Lists the photos below a folder, without those that are labeled.

    A photo is a labeled one if it is the same file, also through a link, or has the same bytes.
    Files are only read where their size is that of a labeled photo.

    Args:
        folder: The folder.
        labeled: Photos of each split, by its name.

    Returns:
        The photos.

    Raises:
        MissingFileError: If there is no such folder.
        InputError: If it is a file, or has no photo without labels. Where photos that scores are
            measured on are among them, the message says so.
    """
    root = Path(os.path.abspath(folder))
    if not root.exists():
        raise MissingFileError(f'the folder of unlabeled photos {root} does not exist')
    if not root.is_dir():
        raise InputError(f'{root} is a file, but a folder of unlabeled photos is expected')
    listed = DataFolder(root)
    files = listed.images
    dead = set(listed.dead_links)  # known once it is listed
    images = [path for path in files if path not in dead]
    if not images:
        raise InputError(
            f'{root} has no photos ({len(listed.files)} files of other kinds); give a folder with '
            'photos, such as .jpg or .png'
        )
    known = KnownPhotos(labeled)
    names, of_split = [], defaultdict(list)
    for path in images:
        name, split = listed.relative(path), known.split_of(path)
        (names if split is None else of_split[split]).append(name)
    found = {split: tuple(of_split[split]) for split in SPLITS if split in of_split}
    links = tuple(map(listed.relative, listed.dead_links))
    photos = UnlabeledPhotos(root, tuple(names), found, links)
    if not names:
        photos.refuse_leaks()
        counts = ', '.join(f'{len(names)} of {split}' for split, names in found.items())
        raise InputError(
            f'all {len(images)} photos in {root} are labeled ({counts}); give a folder with photos '
            'that are not in the dataset'
        )
    return photos


def labeled_photos(cfg: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the photos of each split of a config, as paths.

    Args:
        cfg: A config whose datasets have COCO annotation files.

    Raises:
        FileNotFoundError: If an annotation file does not exist.
        InputError: If it cannot be used.
    """
    photos: dict[str, list[str]] = {}
    for split in SPLITS:
        for key, config in iter_dataset_configs(cfg, split):
            if config.get('indices') is not None:  # a part of the file
                dataset = DATASETS.build(copy.deepcopy(dict(config)))
                paths = [dataset.get_data_info(row)['img_path'] for row in range(len(dataset))]
                photos.setdefault(split, []).extend(paths)
                continue
            source = read_source(split, key, config)
            if not source.ann_file or is_remote(source.ann_file, config):
                raise InputError(
                    f'photos without labels are compared with those of `{key}`, but its ann_file, '
                    f'{source.ann_file!r}, is not a file on the local disk; name a local copy'
                )
            names = read_annotations(os.path.abspath(source.ann_file)).file_names
            folder = source.image_folder or ''
            photos.setdefault(split, []).extend(os.path.join(folder, name) for name in names)
    return photos
