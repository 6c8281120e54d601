"""Puts a folder of unlabeled photos, and the teacher that labels them, into a config."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config

from ..config.class_keys import parameters_of
from ..config.names import did_you_mean
from ..config.own_types import own_type
from ..data.dataset_source import iter_dataset_configs
from ..data.formats.found import fingerprint
from ..data.own_data import info_of, write_once
from ..data.two_views import STRONG, two_view_pipeline
from ..data.unlabeled_photos import UnlabeledPhotos, find_unlabeled_photos, labeled_photos
from ..errors import InputError, MissingFileError
from ..wording import name_some
from .hooks.teacher import TeacherHook

# Setting of a config, and what it has beside the arguments of the hook.
KEY = 'unlabeled'
_OWN_KEYS = ('folder', 'teacher', 'ratio', 'strong')
_NUMBERS = {
    'ratio', 'burn_in', 'ramp_up', 'weight', 'sure_share', 'unsure_share', 'min_score', 'interval'
}  # fmt: skip
_HOOK = 'TeacherHook'
# A training that averages its weights follows its own rule. Otherwise the average is short at first
# and becomes one of about the last 500 steps, which is short enough for a training of a thousand.
_AVERAGE = dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=100)


def name_unlabeled(
    cfg: Config, folder: str | os.PathLike, teacher: str | os.PathLike | None
) -> None:
    """Writes the folder and the teacher into ``cfg.unlabeled``, before options are applied."""
    cfg[KEY] = dict(cfg.get(KEY) or {}, folder=os.fspath(folder))
    if teacher is not None:
        cfg[KEY]['teacher'] = os.fspath(teacher)


def use_unlabeled(cfg: Config, cache: str | os.PathLike, tell: Callable[[str], None]) -> None:
    """Lets a config train on unlabeled photos too, if it has ``unlabeled``.

    ``unlabeled`` has the ``folder``, and optionally ``teacher`` (a checkpoint in place of the
    averaged weights), ``ratio`` (photos for each labeled image of a step), ``strong`` (transforms
    of the strong view), and the arguments of :class:`.TeacherHook`. The config gets
    ``train_dataloader.unlabeled`` and hooks, so a saved config is an ordinary one.

    Args:
        cfg: A config to train with, with its datasets and all options, changed in place.
        cache: Folder for the list of photos.
        tell: Takes what was found, line by line.

    Raises:
        MissingFileError: If the folder or the teacher does not exist.
        InputError: If a setting cannot be used, the folder has no photos without labels, or it has
            photos that scores are measured on.
    """
    settings = cfg.get(KEY)
    if not settings:
        return
    hook = _hook(settings)
    _check_model(cfg)
    photos = find_unlabeled_photos(settings['folder'], labeled_photos(cfg))
    photos.refuse_leaks()
    for note in _notes(photos):
        tell(f'unlabeled: {note}')
    _, dataset = next(iter_dataset_configs(cfg, 'train'))
    classes = tuple((dataset.get('metainfo') or {}).get('classes') or ())
    ann_file = _write_list(photos, classes, Path(os.path.abspath(cache)), tell)
    strong = settings.get('strong')
    cfg.train_dataloader[KEY] = dict(
        ratio=settings.get('ratio', 1),
        dataset=dict(
            type='ClassNameCocoDataset',
            data_root=str(photos.folder) + os.sep,
            ann_file=str(ann_file),
            data_prefix=dict(img=''),
            metainfo=copy.deepcopy(dataset.get('metainfo')),
            pipeline=two_view_pipeline(
                dataset.get('pipeline'), STRONG if strong is None else strong
            ),
        ),
    )
    hooks = [dict(h) for h in cfg.get('custom_hooks') or () if h.get('type') != _HOOK]
    averages = any(own_type(h.get('type')) == 'TrainedEMAHook' for h in hooks)
    if not averages and hook.get('checkpoint') is None:
        tell('unlabeled: weights are averaged, as the average is the teacher')
        hooks.append(dict(_AVERAGE))
    cfg.custom_hooks = [*hooks, hook]


def _hook(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of the hook."""
    if not isinstance(settings, Mapping) or not settings.get('folder'):
        raise InputError(
            f"unlabeled must be a dict with a folder, such as dict(folder='photos'), but is "
            f'{settings!r}'
        )
    arguments = parameters_of(TeacherHook)[0] - {'checkpoint'}
    known = {*_OWN_KEYS, *arguments}
    for key in settings:
        if key not in known:
            raise InputError(
                f'unlabeled has no {key!r}'
                + (did_you_mean(key, known) or f'; it has {", ".join(sorted(known))}')
            )
    for key in _NUMBERS & settings.keys():
        value = settings[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise InputError(f'unlabeled.{key} must be a number, but is {value!r}')
    teacher = settings.get('teacher')
    if teacher and '://' not in teacher and not os.path.isfile(teacher):
        raise MissingFileError(f'the teacher {teacher} does not exist; check the path')
    chosen = {key: value for key, value in settings.items() if key in arguments}
    hook = dict(chosen, checkpoint=teacher)
    TeacherHook(**hook)  # says what is out of range
    return dict(type=_HOOK, **{key: value for key, value in hook.items() if value is not None})


def _check_model(cfg: Config) -> None:
    type_ = (cfg.get('model') or {}).get('type')
    cls = type_ if inspect.isclass(type_) else MODELS.get(str(type_))
    if not getattr(cls, 'weighs_images', False):
        raise InputError(
            'unlabeled photos need a detector that weighs images, PaddingAwareDINO, but this '
            f'config has {getattr(cls, "__name__", type_)}; take one of the dino_* configs'
        )
    if (cfg.model.get('data_preprocessor') or {}).get('batch_augments'):
        raise InputError(
            'unlabeled photos do not work with model.data_preprocessor.batch_augments, which '
            'resize images but not the boxes that the teacher is unsure of; resize in the pipeline'
        )


def _notes(photos: UnlabeledPhotos) -> list[str]:
    notes = [f'{len(photos.names)} photos in {photos.folder}']
    for split, names in photos.labeled.items():
        notes.append(
            f'{len(names)} photos of the folder are left out, since they are labeled ones of the '
            f'{split} split ({name_some(names, limit=3)})'
        )
    if photos.dead_links:
        notes.append(
            f'{len(photos.dead_links)} links lead nowhere ({name_some(photos.dead_links, limit=3)})'
        )
    return notes


def _write_list(
    photos: UnlabeledPhotos, classes: tuple[str, ...], cache: Path, tell: Callable[[str], None]
) -> Path:
    """Writes the photos as a COCO file without annotations, once; returns its path."""
    sizes = [os.stat(path).st_size for path in photos.paths]  # of a photo that is repaired, another
    name = fingerprint(str(photos.folder), photos.names, sizes, classes)
    target = cache / f'unlabeled-{name}.json'
    unreadable: list[str] = []

    def content() -> dict[str, Any]:
        images = []
        for name, size in photos.sizes():
            if isinstance(size, InputError):
                unreadable.append(name)
                continue
            images.append(dict(id=len(images) + 1, file_name=name, width=size[0], height=size[1]))
        if not images:
            raise InputError(
                f'none of the {len(photos.names)} photos in {photos.folder} can be read; the first '
                f'is {unreadable[0]!r}'
            )
        categories = [dict(id=label + 1, name=name) for label, name in enumerate(classes)]
        info = dict(unreadable=unreadable)
        return dict(info=info, images=images, annotations=[], categories=categories)

    write_once(target, content)
    unreadable = info_of(target.read_bytes())['unreadable']
    if unreadable:
        tell(
            f'warning: {len(unreadable)} photos in {photos.folder} cannot be read and are left '
            f'out ({name_some(unreadable, limit=3)})'
        )
    return target
