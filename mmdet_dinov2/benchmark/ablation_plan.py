"""Plans of ablations: a base config, changes of it, and seeds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..config.files import find_config
from ..config.names import did_you_mean
from ..engine.training import check, read_config, set_up_training
from ..errors import InputError, MissingFileError

BASE = 'base'
# Settings of all seeds, or of each.
OfSeeds = Mapping[str, Any] | Sequence[Mapping[str, Any]]
_KEYS = ('config', 'changes', 'seeds', 'options', 'data', 'metric', 'references')


@dataclass(frozen=True)
class Plan:
    """What an ablation trains.

    Attributes:
        config: Config file or name of the base.
        changes: For each name, settings that differ from the base, by dotted name, or a list of
            them, one for each seed; 'base' has none.
        seeds: Seeds of the runs.
        options: Settings of all runs, by dotted name, or a list of them, one for each seed.
        data: Folder of a dataset to use instead of that of the config, or None.
        metric: Score that is compared, by its name in the log.
        references: Change that a change is compared with, where it is not 'base'.
    """

    config: str
    changes: Mapping[str, OfSeeds]
    seeds: tuple[int, ...]
    options: OfSeeds
    data: str | None
    metric: str
    references: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def config_hash(self) -> str:
        """Hash of the settings of the base config, with all configs that it is based on."""
        settings = Config.fromfile(find_config(self.config)).to_dict()
        text = json.dumps(settings, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def options_of(self, change: str, seed: int) -> dict[str, Any]:
        """Returns the settings of a run by dotted name."""
        place = self.seeds.index(seed)
        parts = (
            settings if isinstance(settings, Mapping) else settings[place]
            for settings in (self.options, self.changes[change])
        )
        return {key: value for part in parts for key, value in part.items()} | {
            'randomness.seed': seed
        }

    def check(self, work_dir: str | Path) -> None:
        """Checks models, settings and data of all changes, before hours are spent.

        Args:
            work_dir: Folder for annotation files that the dataset may need.

        Raises:
            InputError: If something cannot be used; the message names the change.
        """
        for change, settings in self.changes.items():
            of_all_seeds = isinstance(settings, Mapping) and isinstance(self.options, Mapping)
            for seed in self.seeds[:1] if of_all_seeds else self.seeds:
                self._check_run(change, seed, work_dir)

    def _check_run(self, change: str, seed: int, work_dir: str | Path) -> None:
        try:
            cfg = read_config(
                self.config,
                data=self.data,
                work_dir=Path(work_dir) / 'check',
                options=self.options_of(change, seed),
                tell=lambda _: None,
            )
            with_data = (change, seed) == (BASE, self.seeds[0])
            check(set_up_training(cfg, tell=lambda _: None), ('train', 'val'), with_data)
        except (KeyError, TypeError, ValueError) as error:
            reason = error.args[0] if isinstance(error, KeyError) else error
            raise InputError(f'change {change!r}: {reason}') from error


def read_plan(path: str | Path) -> Plan:
    """Reads a plan, a Python file as configs are.

    Args:
        path: File with ``config``, ``changes`` and ``seeds``, and optionally ``options``, ``data``,
            ``metric`` and ``references``; see :class:`Plan`.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If a key is unknown, missing or of a wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f'plan {path} does not exist; check the path')
    found = Config.fromfile(path).to_dict()
    for key in found:
        # Other names are variables of the file, unless they look like a slip.
        hint = '' if key in _KEYS else did_you_mean(key, _KEYS)
        if hint:
            raise InputError(f'{path}: a plan has no key {key!r}, only {", ".join(_KEYS)}{hint}')
    for key, kind, example in (
        ('config', str, "'dino_dinov2_quickstart'"),
        ('changes', dict, "dict(slow={'optim_wrapper.optimizer.lr': 1e-4})"),
        ('seeds', (list, tuple), '[0, 1, 2]'),
    ):
        if not isinstance(found.get(key), kind) or not found[key]:
            raise InputError(
                f'{path}: {key} must be set, such as {key} = {example}, but is {found.get(key)!r}'
            )
    changes = {BASE: {}, **found['changes']}
    for name, options in changes.items():
        if not re.fullmatch(r'[\w.-]+', name) or not _is_settings(options):
            raise InputError(
                f'{path}: a change has a name of letters, digits and _ and a dict of settings, or '
                f'a list of them, but found {name!r}: {options!r}'
            )
    seeds = found['seeds']
    if not all(type(seed) is int and seed >= 0 for seed in seeds) or len({*seeds}) < len(seeds):
        raise InputError(
            f'{path}: seeds must be different whole numbers of at least 0, but are {seeds!r}'
        )
    for key, example in (
        ('options', "{'train_cfg.max_epochs': 50}"),
        ('references', "dict(photos='labels')"),
    ):
        value = found.get(key) or {}
        if not isinstance(value, dict) and not (key == 'options' and _is_settings(value)):
            raise InputError(f'{path}: {key} must be a dict, such as {example}, but is {value!r}')
    references = found.get('references') or {}
    for change, reference in references.items():
        if change not in changes or reference not in changes:
            raise InputError(
                f'{path}: references name changes, but found {change!r}: {reference!r}; the '
                f'changes are {", ".join(changes)}'
            )
    common = found.get('options') or {}
    for name, options in (('options', common), *changes.items()):
        if not isinstance(options, dict) and len(options) != len(seeds):
            raise InputError(
                f'{path}: a list of settings has one dict for each of the {len(seeds)} seeds, but '
                f'{name!r} has {len(options)}'
            )
    if changes[BASE]:
        raise InputError(f"{path}: 'base' has no changes of its own; set them in options")
    return Plan(
        config=found['config'],
        changes=changes,
        seeds=tuple(seeds),
        options=common,
        data=found.get('data'),
        metric=found.get('metric', 'coco/bbox_mAP'),
        references=references,
    )


def _is_settings(settings: object) -> bool:
    each = settings if isinstance(settings, (list, tuple)) else [settings]
    return all(isinstance(one, dict) for one in each)
