"""Which types of a config run as types of this project: one table, and the reason for each entry.

MMEngine and MMCV have classes that do not keep what this project promises. A config that names one
of them gets the class of this project, and the log of the run says so. Configs of this project name
the classes that run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import mmdet.registry
import mmengine.registry
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, Registry

from ..wording import first_names

# Type of mmengine or mmcv: the type that runs, and what that one does.
OWN_TYPES = {
    'AmpOptimWrapper': (
        'GuardedAmpOptimWrapper',
        'lets the loop do a step again that memory did not suffice for',
    ),
    'CheckpointHook': (
        'IntactCheckpointHook',
        'removes the previous checkpoint only after the new one is written',
    ),
    'EMAHook': ('TrainedEMAHook', 'does not average frozen weights'),
    'EpochBasedTrainLoop': ('EpochTrainLoop', 'counts optimizer steps, and resumes at any step'),
    'Evaluator': ('BadImageEvaluator', 'counts images that cannot be read as images without boxes'),
    'IterBasedTrainLoop': ('IterTrainLoop', 'counts optimizer steps, and resumes at any step'),
    # The scope makes the difference. mmdet's DetInferencer searches a pipeline for the rest of it.
    'LoadImageFromFile': (
        'mmdet_dinov2.LoadImageFromFile',
        'checks the header of an image before decoding it',
    ),
    'LoggerHook': ('ReadableLoggerHook', 'reports an evaluation in a few lines'),
    'OptimWrapper': ('GuardedOptimWrapper', 'leaves out steps with a non-finite gradient'),
    'WandbVisBackend': (
        'NoCodeWandbVisBackend',
        'does not upload every Python file below the current folder',
    ),
}

# Names that earlier versions gave to classes of this project, and their names now.
EARLIER_NAMES = {
    'DetectionCheckpointHook': 'IntactCheckpointHook',
    'DetectionCocoDataset': 'ClassNameCocoDataset',
    'DetectionCocoMetric': 'ClassNameCocoMetric',
    'DetectionEMAHook': 'TrainedEMAHook',
    'DetectionEvaluator': 'BadImageEvaluator',
    'DetectionLogProcessor': 'ReadableLogProcessor',
    'DetectionOptimWrapperConstructor': 'LayerDecayOptimWrapperConstructor',
    'DetectionRunner': 'StrictRunner',
}

# Keys of a config whose value is a type.
TYPE_KEYS = ('type', 'constructor', 'runner_type')
_SCOPE = 'mmdet_dinov2'
_LIBRARIES = ('mmcv', 'mmdet', 'mmengine')


def own_type(value: Any) -> Any:
    """Returns the type that runs where a config names a type.

    Args:
        value: A type as configs name it: a name, with or without the scope or module, or a class.

    Returns:
        The name of the type of this project, or the value itself if the table does not have it.
    """
    path = f'{value.__module__}.{value.__name__}' if isinstance(value, type) else value
    if not isinstance(path, str):
        return value
    package, _, name = path.rpartition('.')
    package = package.partition('.')[0]
    if package in ('', _SCOPE) and name in EARLIER_NAMES:
        return EARLIER_NAMES[name]
    if package in ('', *_LIBRARIES) and name in OWN_TYPES:
        return OWN_TYPES[name][0]
    return value


def use_own_types(cfg: Config | MutableMapping[str, Any]) -> list[str]:
    """Puts the types that run into a config, in place.

    Args:
        cfg: A config or a part of it. Types are replaced wherever they stand: in datasets within
            datasets and transforms within transforms too.

    Returns:
        A line for each replaced type: what runs, in place of what, why, and where in the config.
        Names of earlier versions are replaced without a line, as the class is the same.
    """
    places: dict[str, list[str]] = {}
    for key, node, name in _types(cfg, ''):
        own = own_type(node[name])
        if own == node[name]:
            continue
        before = getattr(node[name], '__name__', node[name]).rpartition('.')[2]
        node[name] = own
        if before in OWN_TYPES:
            places.setdefault(before, []).append(key)
    return [
        f'{OWN_TYPES[before][0]} in place of {before}: it {OWN_TYPES[before][1]} '
        f'({first_names(keys, 3)})'
        for before, keys in places.items()
    ]


def _types(node: Any, prefix: str) -> Iterator[tuple[str, MutableMapping[str, Any], str]]:
    """Yields the dotted key, the dict and the key in it of each type."""
    if isinstance(node, (list, tuple)):
        items = list(enumerate(node))
    elif isinstance(node, (Mapping, Config)):
        items = list(node.items())
    else:
        return
    for key, value in items:
        path = f'{prefix}.{key}' if prefix else str(key)
        if key in TYPE_KEYS:
            yield prefix if key == 'type' else path, node, key
        else:
            yield from _types(value, path)


def register_names() -> None:
    """Registers this project's ``LoadImageFromFile`` and the names of earlier versions.

    So they can be built outside of a runner too, by mmdet's tools and its ``DetInferencer``.
    """
    scoped = Registry('transform', parent=TRANSFORMS, scope=_SCOPE)
    loading = mmdet.registry.TRANSFORMS.get('CheckedLoadImageFromFile')
    scoped.register_module(name='LoadImageFromFile', module=loading)
    for registry in (
        mmdet.registry.DATASETS,
        mmdet.registry.METRICS,
        mmengine.registry.EVALUATOR,
        mmengine.registry.HOOKS,
        mmengine.registry.LOG_PROCESSORS,
        mmengine.registry.OPTIM_WRAPPER_CONSTRUCTORS,
        mmengine.registry.RUNNERS,
    ):
        for earlier, name in EARLIER_NAMES.items():
            if name in registry.module_dict:
                registry.register_module(name=earlier, module=registry.module_dict[name])
