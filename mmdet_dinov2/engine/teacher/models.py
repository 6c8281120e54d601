"""The detectors that teach: averaged weights of the student, or a trained checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from mmcv.transforms import Compose
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
from ...config.tiles import tile_of
from ...errors import InputError
from ...wording import name_some


@dataclass(frozen=True)
class Teacher:
    """A trained detector that teaches.

    Attributes:
        model: The detector, in evaluation mode without gradients.
        labels: Label of the student for each of its labels, -1 for classes that the student does
            not have, (classes,).
        resize: What the test pipeline of the detector does to the size of a picture.
    """

    model: nn.Module
    labels: Tensor
    resize: Compose


def predict_views(
    model: nn.Module,
    views: Sequence[Tensor],
    weights: Mapping[str, Tensor] | None = None,
    precision: AbstractContextManager | None = None,
    resize: Compose | None = None,
) -> list[DetDataSample]:
    """Detects objects in views of photos, in pixels of the views.

    Args:
        model: A detector of mmdet; it is left in the mode in which it was.
        views: Images, (3, H, W), uint8.
        weights: Parameters and buffers to use in place of those of the model, by name. None takes
            those of the model, which must not require gradients.
        precision: Context of the prediction, such as autocast.
        resize: Transforms that change the size of the views before, as of :class:`Teacher`.

    Returns:
        The predictions, on the host.
    """
    images, samples = [], []
    for view in views:
        image, scale_factor = _resized(view, resize) if resize else (view, (1.0, 1.0))
        meta = dict(
            img_shape=tuple(image.shape[-2:]),
            ori_shape=tuple(view.shape[-2:]),
            scale_factor=scale_factor,
        )
        images.append(image)
        samples.append(DetDataSample(metainfo=meta))
    # Without torch.no_grad, under which the backbone would put fp32 originals of its frozen weights
    # back, twice in each step. Nothing requires a gradient here, so nothing is kept for one.
    with precision or nullcontext(), _evaluating(model):
        data = model.data_preprocessor(dict(inputs=images, data_samples=samples), False)
        arguments = (data['inputs'], data['data_samples'])
        found = functional_call(model, dict(weights or {}), arguments, dict(mode='predict'))
    return [sample.cpu() for sample in found]


def load_teacher(path: str, classes: Sequence[str], device: torch.device) -> Teacher:
    """Loads a trained detector as a teacher; no code in its checkpoint is run.

    Args:
        path: The checkpoint.
        classes: Classes of the student.
        device: Where the teacher computes.

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
    resize = [step for step in parts['pipeline'] if 'Resize' in str(step.get('type'))]
    if tile_of(parts['model']) is not None:
        resize = []  # it has learned from tiles, whose pixels are those of the photo
    return Teacher(model.requires_grad_(False).to(device).eval(), labels, Compose(resize))


def _resized(view: Tensor, resize: Compose) -> tuple[Tensor, tuple[float, float]]:
    """Returns a view in another size, and by how much it is wider and higher."""
    image = np.ascontiguousarray(view.permute(1, 2, 0).numpy())
    shape = image.shape[:2]
    found = resize(dict(img=image, img_shape=shape, ori_shape=shape))
    image = np.ascontiguousarray(found['img'].transpose(2, 0, 1))
    return torch.from_numpy(image), tuple(found.get('scale_factor', (1.0, 1.0)))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
