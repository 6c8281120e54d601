"""Loads whole detectors: exactly, or as the start of a training with different classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ..errors import InputError
from ..wording import first_names
from .detrex_dino import PUBLISHED_CONFIG, detrex_classes, from_detrex_dino, is_detrex_dino
from .layouts import LAYOUTS, strip_prefix
from .load_backbone import LoadReport
from .reading import named_tensors
from .sharded import gather, load_model_state

# Tensors with one row for each class.
_CLASS_ROWS = re.compile(
    r'(bbox_head\.cls_branches\.\d+|query_groups\.\d+\.cls_branch)\.(weight|bias)'
    r'|dn_query_generator\.label_embedding\.weight'
)


def inner_model(model: nn.Module) -> nn.Module:
    """Returns the model inside wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def own_names(state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Returns the tensors of a detector under the names of this project.

    Args:
        state_dict: Tensors by name. A leading 'module.' of a distributed wrapper is dropped, and
            detrex's DINO on DINOv2 is renamed (see :mod:`.detrex_dino`).
        source: Where the tensors come from, for messages.

    Raises:
        InputError: If a detector of detrex is not the published one, or is damaged.
    """
    state = {name.removeprefix('module.'): tensor for name, tensor in state_dict.items()}
    return from_detrex_dino(state, source) if is_detrex_dino(state) else state


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads all parameters and buffers of a model, or none.

    Args:
        model: The model.
        state_dict: Tensors by name, as for :func:`own_names`.
        source: Where the tensors come from, for messages.

    Raises:
        InputError: If a tensor is missing, unknown or of a different shape; the model stays as it
            was.
    """
    config = 'the config that the checkpoint was trained with'
    if is_detrex_dino(state_dict):
        config = f'the config {PUBLISHED_CONFIG}'
    state_dict = own_names(state_dict, source)
    expected = model.state_dict()
    groups = {
        'missing': [name for name in expected if name not in state_dict],
        'unknown': [name for name in state_dict if name not in expected],
        'of a different shape': [
            f'{name} {tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)}'
            for name, tensor in expected.items()
            if name in state_dict and state_dict[name].shape != tensor.shape
        ],
    }
    problems = [f'{len(n)} {what} ({first_names(n)})' for what, n in groups.items() if n]
    if problems:
        raise InputError(
            f'{source} is the checkpoint of a different model: of {len(expected)} tensors, '
            f'{", ".join(problems)}; give {config}'
        )
    load_model_state(model, state_dict, strict=True)


def load_for_fine_tuning(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: str,
    classes: Sequence[str] | None,
    checkpoint_classes: Sequence[str] | None,
) -> LoadReport:
    """Starts a detector from the checkpoint of a different one, as far as they agree.

    Tensors of the same name and shape are loaded. Of tensors with a row for each class, the rows of
    the classes that both know by name are loaded; if either side does not know its classes, none
    are. A backbone is loaded as a whole. If the checkpoint has a different kind of backbone (as the
    published ResNet and Swin detectors of mmdet do), the backbone of this detector keeps its own
    weights, which ``init_cfg`` must name.

    Args:
        model: The initialised detector.
        state_dict: Tensors of the checkpoint, as for :func:`own_names`.
        source: Where the tensors come from, for messages.
        classes: Class names of the new training, in the order of the labels.
        checkpoint_classes: Class names that the checkpoint was trained with.

    Returns:
        What happened to the tensors.

    Raises:
        InputError: If the checkpoint is not that of a detector, if its backbone fits only in part
            or has a different size, or if the backbone would start from random weights; the model
            stays as it was.
    """
    state_dict = own_names(state_dict, source)
    expected = model.state_dict()
    _refuse_plain_backbone(state_dict, expected, source)
    report = LoadReport(source)
    new_state: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        target = expected.get(name)
        if target is None:
            report.left_out[name] = 'unknown to this model'
        elif _CLASS_ROWS.fullmatch(name):
            rows = _match_rows(tensor, gather(target), classes, checkpoint_classes)
            if rows is None:
                report.left_out[name] = 'the class names are not known on both sides'
            else:
                new_state[name], text = rows
                if text:
                    report.adapted[name] = text
                else:
                    report.loaded.append(name)
        elif target.shape != tensor.shape:
            report.left_out[name] = 'of a different shape'
        else:
            new_state[name] = tensor
            report.loaded.append(name)
    report.missing = [name for name in expected if name not in new_state]
    if not any(not name.startswith('backbone.') for name in new_state):
        raise InputError(
            f'nothing of {source} fits this detector behind the backbone: it lacks '
            f'{first_names(report.missing)}; set load_from to the checkpoint of '
            'such a detector'
        )
    has_weights = bool(getattr(getattr(model, 'backbone', None), 'init_cfg', None))
    _check_backbone(new_state, expected, report, has_weights)
    load_model_state(model, new_state, strict=False)
    return report


def check_classes(
    checkpoint: Mapping[str, Any], classes: Sequence[str] | None, source: str
) -> None:
    """Checks that a test has the classes that a checkpoint was trained with.

    Raises:
        InputError: If both know their classes, and these differ in names or order.
    """
    trained = checkpoint_classes(checkpoint)
    if trained is None or classes is None or tuple(trained) == tuple(classes):
        return
    if sorted(trained) == sorted(classes):
        what = 'in a different order'
    else:
        lacking = [name for name in trained if name not in classes]
        extra = [name for name in classes if name not in trained]
        what = f'(only in the checkpoint: {lacking[:5]}; only in the data: {extra[:5]})'
    remedy = f'set metainfo=dict(classes={tuple(trained)}) for the dataset'
    if not set(trained) & set(classes):
        remedy = (
            'they have no class in common; test with a checkpoint that was trained for this data'
        )
    raise InputError(
        f'{source} was trained with the classes {tuple(trained)}, the dataset has '
        f'{tuple(classes)}, {what}: {remedy}'
    )


def checkpoint_classes(checkpoint: Mapping[str, Any]) -> Sequence[str] | None:
    """Returns the class names that a checkpoint was trained with, or None if it lacks them."""
    meta = checkpoint.get('meta') or {}
    dataset_meta = meta.get('dataset_meta') or {}
    # Checkpoints of mmdet 2 keep CLASSES directly in the meta.
    for holder, key in ((dataset_meta, 'classes'), (dataset_meta, 'CLASSES'), (meta, 'CLASSES')):
        if holder.get(key):
            names = holder[key]
            return (names,) if isinstance(names, str) else tuple(names)
    tensors = named_tensors(checkpoint)
    return detrex_classes(tensors) if is_detrex_dino(tensors) else None


def _refuse_plain_backbone(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> None:
    if any(name in expected for name in state_dict):
        return
    names = strip_prefix(state_dict)
    if any(re.fullmatch(layout.signature, name) for layout in LAYOUTS for name in names):
        raise InputError(
            f'{source} holds only a backbone: load it with '
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...) instead of load_from"
        )


def _match_rows(
    tensor: Tensor,
    target: Tensor,
    classes: Sequence[str] | None,
    checkpoint_classes: Sequence[str] | None,
) -> tuple[Tensor, str] | None:
    """Returns rows by class name and how they were matched ('' if one to one).

    None if class names or their numbers of rows are missing or do not fit.
    """
    if not classes or not checkpoint_classes or tensor.shape[1:] != target.shape[1:]:
        return None
    if len(tensor) != len(checkpoint_classes) or len(target) != len(classes):
        return None
    if tuple(classes) == tuple(checkpoint_classes):
        return tensor, ''
    rows = target.clone()
    common = [name for name in classes if name in checkpoint_classes]
    for name in common:
        rows[classes.index(name)] = tensor[checkpoint_classes.index(name)].to(rows)
    fresh = [name for name in classes if name not in checkpoint_classes]
    text = f'rows of {len(common)} classes by name'
    return rows, text + (f', {first_names(fresh)} newly initialised' if fresh else '')


def _check_backbone(
    new_state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    report: LoadReport,
    has_weights: bool,
) -> None:
    """Checks that the backbone fits as a whole, or has weights of its own and nothing fits."""
    needed = [name for name in expected if name.startswith('backbone.')]
    fitting = [name for name in needed if name in new_state]
    lacking = [name for name in needed if name not in new_state]
    if not fitting and needed and not has_weights and not set(needed) & set(report.left_out):
        raise InputError(
            f'{report.source} does not have any tensor of the backbone ({first_names(lacking)}), '
            'which has no weights of its own: name them in model.backbone.init_cfg'
        )
    if lacking and set(needed) & {*fitting, *report.left_out}:
        raise InputError(
            f'only {len(fitting)} of the {len(needed)} tensors of the backbone fit {report.source} '
            f'(not {first_names(lacking)}): use the arch, patch_size and num_registers of the '
            'checkpoint'
        )
