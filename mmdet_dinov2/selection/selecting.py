"""From a folder of photos to those that are worth a label."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..checkpoint import embedded_config, read_checkpoint
from ..config.files import find_config
from ..config.options import check_options
from ..data.annotation_file import read_annotations
from ..data.own_data import find_own_data
from ..data.unlabeled_photos import find_unlabeled_photos
from ..errors import InputError
from ..inference import load
from .embeddings import PhotoEmbedder, embed_photos
from .outputs import count_pairs, is_sheet, write_selection
from .photo_splits import UNLABELED, NearDuplicate, PhotoSplits, Selection
from .uncertainty import photo_uncertainty

DEFAULT_CONFIG = 'dino_dinov2_s_ft'
# Starts a progress bar of a name: yields what takes the number of steps.
Bars = Callable[[str], AbstractContextManager[Callable[[int], Callable[[], None]]]]


@dataclass(frozen=True)
class SelectionResult:
    """What was selected, and where it is written.

    Attributes:
        selection: The photos to label.
        near_duplicates: Near-duplicates within and across splits.
        embeddings: What the embeddings are, as a sentence.
        files: The files that were written.
    """

    selection: Selection
    near_duplicates: list[NearDuplicate]
    embeddings: str
    files: list[Path]


def select_photos(
    unlabeled: str | os.PathLike,
    data: str | os.PathLike | None = None,
    *,
    count: int = 100,
    config: str | None = None,
    checkpoint: str | None = None,
    prefer_unsure: bool = True,
    out: str | os.PathLike = 'work_dirs/select',
    size: int = 224,
    batch_size: int = 16,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = print,
    bars: Bars = lambda name: nullcontext(lambda total: lambda: None),
) -> SelectionResult:
    """Chooses photos to label, and finds near-duplicates; the same as ``mmdet_dinov2 select``.

    Args:
        unlabeled: Folder of photos.
        data: Folder of the labeled dataset; docs/own-data.md lists the formats. Photos of it that
            are in the other folder too are no candidates.
        count: Number of photos to choose.
        config: Config, or name of one of this project, whose backbone computes the embeddings; by
            default that of the checkpoint, else ``DEFAULT_CONFIG``.
        checkpoint: Checkpoint of a detector whose backbone computes the embeddings.
        prefer_unsure: Whether that detector predicts on all candidates, and photos that it is
            unsure of are preferred.
        out: Folder for lists, sheets and the cache of the embeddings.
        size: Length of the longer side of the photos for the embeddings in pixels.
        batch_size: Number of photos that are computed at once.
        device: Where to compute; by default a GPU, if there is one.
        options: Settings that override the config, by dotted name.
        tell: Takes what was found, line by line.
        bars: Shows progress.

    Raises:
        FileNotFoundError: If a folder, the config or the weights do not exist.
        InputError: If something cannot be used.
    """
    if count < 0:
        raise InputError(f'the number of photos to choose must be at least 0, but is {count}')
    for name, value in (('size', size), ('batch size', batch_size)):
        if value < 1:
            raise InputError(f'the {name} must be at least 1, but is {value}')
    out = Path(out)
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    splits = _labeled(data, out, tell)
    splits[UNLABELED] = _unlabeled(unlabeled, splits, tell)
    cfg = _config(config, checkpoint, options)
    embedder = PhotoEmbedder(cfg, checkpoint, size, device)
    tell(f'embeddings: {embedder.describe()}')
    if not embedder.has_weights:
        tell(
            'warning: random weights tell photos apart, but know nothing of what is in them; name '
            'a config with pretrained weights, or a checkpoint'
        )
    everything = list(dict.fromkeys(path for paths in splits.values() for path in paths))
    with bars('photos') as start:
        photos = embed_photos(embedder, everything, out / 'cache', batch_size, start)
    for problem in photos.problems.values():
        tell(f'warning: not read: {problem}')
    if splits[UNLABELED] and all(path in photos.problems for path in splits[UNLABELED]):
        raise InputError(f'none of the photos in {unlabeled} can be read; nothing is chosen')
    sets = PhotoSplits(photos, splits, device)
    with bars('comparisons') as start:
        found = sets.near_duplicates(start)
    uncertainty = None
    if checkpoint and prefer_unsure:
        detector = load(checkpoint, config and cfg, device)
        with bars('detections') as start:
            uncertainty = photo_uncertainty(
                detector, sets.candidates(), out / 'cache', batch_size, start
            )
    selection = sets.choose(count, uncertainty)
    for line in count_pairs(found):
        tell(line)
    skipped = f', {selection.skipped} of chosen ones' if selection.skipped else ''
    tell(
        f'{len(selection.chosen)} of {len(splits[UNLABELED])} unlabeled photos chosen; left out: '
        f'{selection.left_out} near-duplicates of labeled photos{skipped}'
    )
    if len(selection.chosen) < count:
        tell(f'warning: {count} photos were asked for, but no more than these differ')
    files = write_selection(out, selection, found, embedder.describe())
    return SelectionResult(selection, found, embedder.describe(), files)


def _config(
    config: str | None, checkpoint: str | None, options: Mapping[str, Any] | None
) -> Config:
    """Returns the config of the backbone."""
    if config is None and checkpoint is not None:
        if options:
            raise InputError('options override a config; name it too, or leave them out')
        parts = embedded_config(read_checkpoint(checkpoint), checkpoint)
        return Config(dict(model=parts['model']))
    cfg = Config.fromfile(find_config(config or DEFAULT_CONFIG))
    cfg.merge_from_dict(check_options(dict(options or {}), cfg))
    return cfg


def _labeled(
    data: str | os.PathLike | None, out: Path, tell: Callable[[str], None]
) -> dict[str, list[str]]:
    """Returns the photos of each split of the labeled dataset."""
    if data is None:
        return {}
    found = find_own_data(data, out / 'data')
    for note in found.notes:
        tell(f'data: {note}')
    for warning in found.warnings:
        tell(f'warning: {warning}')
    return {
        split: [
            os.path.join(source.image_folder, name)
            for name in read_annotations(source.ann_file, sizes=False).file_names
        ]
        for split, source in found.splits.items()
    }


def _unlabeled(
    folder: str | os.PathLike,
    splits: Mapping[str, list[str]],
    tell: Callable[[str], None],
) -> list[str]:
    """Returns the photos of a folder that are neither labeled nor sheets of earlier calls."""
    found = find_unlabeled_photos(folder, splits)
    for split, names in found.labeled.items():
        tell(f'data: {len(names)} photos of {found.folder} are photos of {split}, and left out')
    return [str(path) for path in found.paths if not is_sheet(path)]
