"""The detectors that teach: averaged weights of the student, or a trained checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.func import functional_call

from ...checkpoint import (
    checkpoint_classes,
    embedded_config,
    load_state_dict,
    read_checkpoint,
    state_dict_of,
)
from ...errors import InputError
from ...wording import name_some


def predict_views(
    model: nn.Module,
    views: Sequence[Tensor],
    weights: Mapping[str, Tensor] | None = None,
    precision: AbstractContextManager | None = None,
) -> list[DetDataSample]:
    """Detects objects in views of photos, in pixels of the views.

    Args:
        model: A detector of mmdet; it is left in the mode in which it was.
        views: Images, (3, H, W), uint8.
        weights: Parameters and buffers to use in place of those of the model, by name. None takes
            those of the model, which must not require gradients.
        precision: Context of the prediction, such as autocast.

    Returns:
        The predictions, on the host.
    """
    samples = []
    for view in views:
        shape = tuple(view.shape[-2:])
        meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
        samples.append(DetDataSample(metainfo=meta))
    # Without torch.no_grad, under which the backbone would put fp32 originals of its frozen weights
    # back, twice in each step. Nothing requires a gradient here, so nothing is kept for one.
    with precision or nullcontext(), _evaluating(model):
        data = model.data_preprocessor(dict(inputs=list(views), data_samples=samples), False)
        arguments = (data['inputs'], data['data_samples'])
        found = functional_call(model, dict(weights or {}), arguments, dict(mode='predict'))
    return [sample.cpu() for sample in found]


def load_teacher(
    path: str, classes: Sequence[str], device: torch.device
) -> tuple[nn.Module, Tensor]:
    """Loads a trained detector as a teacher; no code in its checkpoint is run.

    Args:
        path: The checkpoint.
        classes: Classes of the student.
        device: Where the teacher computes.

    Returns:
        The detector, in evaluation mode without gradients, and the label of the student for each
        of its labels, -1 for classes that the student does not have.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it cannot be used, or does not know a class of the student.
    """
    content = read_checkpoint(path)
    parts = embedded_config(content, path)
    model = MODELS.build(ConfigDict(parts['model']))
    load_state_dict(model, state_dict_of(content, path), source=path)
    known = checkpoint_classes(content)
    if known is None:
        raise InputError(
            f'the teacher {path} does not name its classes (meta.dataset_meta.classes); take a '
            'checkpoint of a training'
        )
    missing = [name for name in classes if name not in known]
    if missing:
        raise InputError(
            f'the teacher {path} does not know {name_some(missing)}, so it would teach that these '
            f'objects are background; it knows {name_some(known)}'
        )
    numbers = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([numbers.get(name, -1) for name in known])
    return model.requires_grad_(False).to(device).eval(), labels


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
