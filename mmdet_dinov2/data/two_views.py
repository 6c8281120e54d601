"""Two views of an unlabeled photo: a weakly augmented one for the teacher, a strong one to learn.

Both have the same geometry, as in Unbiased Teacher (arXiv:2102.09480), so that boxes of one view
are boxes of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmdet.registry import TRANSFORMS

from ..errors import InputError
from ..sample_meta import TEACHER_VIEW

# What changes the pixels of a photo and leaves its objects where they are. The hue stays, and
# nothing becomes grey: with few labels, the colour may be all that tells classes apart.
STRONG = (
    dict(type='Brightness', prob=0.5, min_mag=0.6, max_mag=1.4),
    dict(type='Contrast', prob=0.5, min_mag=0.6, max_mag=1.4),
    dict(type='Color', prob=0.5, min_mag=0.6, max_mag=1.4),
    dict(type='Sharpness', prob=0.5, min_mag=0.2, max_mag=1.8),
    dict(
        type='CutOut',
        n_holes=(1, 8),
        cutout_ratio=[(0.05, 0.05), (0.1, 0.05), (0.05, 0.1), (0.1, 0.1)],
        fill_in=(114, 114, 114),
    ),
)
# Transforms that need the objects of other samples, and one that drops samples without objects.
_LEFT_OUT = (
    'CachedMixUp', 'CachedMosaic', 'CopyPaste', 'FilterAnnotations', 'MixSamples', 'MixUp',
    'Mosaic',
)  # fmt: skip
_PACKING = ('PackDetInputs', 'PackWeightedDetInputs')


@TRANSFORMS.register_module()
class PackTwoViews(BaseTransform):
    """Packs a photo as it is for the teacher, and strongly augmented as the image to learn from.

    The view of the teacher is the field ``TEACHER_VIEW`` of the data sample, (3, H, W), uint8.

    Args:
        strong: Configs of transforms that change pixels and no places.
        pack: Config of what packs the strong view.

    Raises:
        InputError: If the strong view has a different size.
    """

    def __init__(self, strong: Sequence[dict] = STRONG, pack: dict | None = None) -> None:
        self.strong = Compose([dict(transform) for transform in strong])
        self.pack = TRANSFORMS.build(pack or dict(type='PackDetInputs'))

    def transform(self, results: dict) -> dict:
        """Packs both views."""
        weak = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        if weak.base is not None:
            weak = weak.copy()
        packed = self.pack(self.strong(results))
        if packed['inputs'].shape != weak.shape:
            raise InputError(
                f'the strong view of a photo has the shape {tuple(packed["inputs"].shape)}, but '
                f'that of the teacher has {weak.shape}; PackTwoViews takes transforms that change '
                'pixels, not places'
            )
        packed['data_samples'].set_field(torch.from_numpy(weak), TEACHER_VIEW)
        return packed


def two_view_pipeline(
    pipeline: Sequence[Mapping[str, Any]], strong: Sequence[Mapping[str, Any]] = STRONG
) -> list[dict]:
    """Makes the pipeline of unlabeled photos from that of labeled images.

    Args:
        pipeline: Configs of the transforms of labeled images; the last one packs.
        strong: Configs of what makes the view to learn from.

    Returns:
        Configs of the same transforms without those that mix samples or drop samples without
        objects; the last one packs two views.

    Raises:
        InputError: If the last transform does not pack.
    """
    *before, last = pipeline or [{}]
    if _name(last) not in _PACKING:
        raise InputError(
            'unlabeled photos need a training pipeline that ends with '
            f'{" or ".join(_PACKING)}, but it ends with {last.get("type")}'
        )
    packing = dict(type='PackTwoViews', strong=[dict(t) for t in strong], pack=dict(last))
    return [*_for_photos(before), packing]


def _for_photos(part: Any) -> Any:
    """Returns a part of a pipeline that takes photos without objects."""
    if isinstance(part, (list, tuple)):  # transforms take sizes as tuples only
        return type(part)(_for_photos(inner) for inner in part if _name(inner) not in _LEFT_OUT)
    if not isinstance(part, Mapping):
        return part
    changed = {key: _for_photos(value) for key, value in part.items()}
    if _name(part) == 'RandomCrop':
        changed['allow_negative_crop'] = True
    return changed


def _name(transform: Any) -> str:
    """Returns the name of the type of a transform, without its scope; '' for other things."""
    type_ = transform.get('type', '') if isinstance(transform, Mapping) else ''
    return getattr(type_, '__name__', str(type_)).rpartition('.')[2]
