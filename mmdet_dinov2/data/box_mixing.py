"""MixUp and CutMix for images with boxes."""

from __future__ import annotations

import random
from collections.abc import Sized

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes, autocast_box_type

from ..errors import InputError

_WEIGHTS = 'gt_weights'


class _MixesTwo(BaseTransform):
    """Mixes a sample with one other; see :class:`.MixSamples`.

    Args:
        alpha: Both parameters of the beta distribution of the share of the sample, above 0.
    """

    def __init__(self, alpha: float) -> None:
        if not alpha > 0:
            raise InputError(f'alpha of {type(self).__name__} must be above 0, but is {alpha!r}')
        self.alpha = alpha

    def get_indexes(self, dataset: Sized) -> int:
        """Draws the number of the other sample."""
        return random.randrange(len(dataset))

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Mixes the sample with ``mix_results``.

        Raises:
            InputError: If the samples have masks, which are not mixed.
        """
        (other,) = results['mix_results']
        for sample in (results, other):
            if 'gt_masks' in sample:
                raise InputError(
                    f'{type(self).__name__} does not mix masks; leave it out, or load no masks'
                )
        return self._mix(results, other, float(np.random.beta(self.alpha, self.alpha)))

    def _mix(self, results: dict, other: dict, share: float) -> dict:
        raise NotImplementedError


@TRANSFORMS.register_module()
class BoxMixUp(_MixesTwo):
    """MixUp of images with boxes (Zhang et al., arXiv:1902.04103, section 3.1).

    The pixels of both images are averaged with the weights share and 1 - share, the share from
    Beta(alpha, alpha), and the boxes of both are kept. Their weights are ``gt_weights``, which
    :class:`PackWeightedDetInputs` hands to the losses.

    Images keep their sides, so that nothing is padded: the other image is shrunk if it does not fit
    into this one, and lies at a random place in it. Where it does not lie, this image stays as it
    is.

    Args:
        alpha: Both parameters of the beta distribution, above 0; 1.5 in the paper.
    """

    def __init__(self, alpha: float = 1.5) -> None:
        super().__init__(alpha)

    def _mix(self, results: dict, other: dict, share: float) -> dict:
        image, added = results['img'], other['img']
        (height, width), (rows, cols) = image.shape[:2], added.shape[:2]
        scale = min(height / rows, width / cols, 1.0)
        rows, cols = (max(1, int(side * scale)) for side in (rows, cols))
        boxes = other['gt_bboxes'].clone()
        boxes.rescale_((cols / added.shape[1], rows / added.shape[0]))
        added = cv2.resize(added, (cols, rows), interpolation=cv2.INTER_LINEAR)
        top, left = random.randint(0, height - rows), random.randint(0, width - cols)
        boxes.translate_((left, top))
        boxes.clip_((height, width))  # rounding
        place = np.s_[top : top + rows, left : left + cols]
        blended = share * image[place].astype(np.float32) + (1 - share) * added
        image = image.copy()
        image[place] = blended.round() if image.dtype == np.uint8 else blended
        results['img'] = image
        _join(results, other, boxes, _weights(results) * share, _weights(other) * (1 - share))
        return results


@TRANSFORMS.register_module()
class BoxCutMix(_MixesTwo):
    """CutMix (Yun et al., arXiv:1905.04899) of images with boxes.

    A rectangle of this image is replaced by one of the other image. Its share of the area is
    1 - share, the share from Beta(alpha, alpha), as far as the other image is large enough. Boxes
    of this image stay where enough of them is visible, those of the other one are cut to the
    rectangle.

    Args:
        alpha: Both parameters of the beta distribution, above 0; 1 in the paper.
        min_visible: Least visible share of the area of a box that is kept, 0 to 1.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(self, alpha: float = 1.0, min_visible: float = 0.5) -> None:
        super().__init__(alpha)
        if not 0 <= min_visible <= 1:
            raise InputError(f'min_visible of BoxCutMix must be 0 to 1, but is {min_visible!r}')
        self.min_visible = min_visible

    def _mix(self, results: dict, other: dict, share: float) -> dict:
        image, source = results['img'], other['img']
        sides = [
            min(int(side * (1 - share) ** 0.5), limit)
            for side, limit in zip(image.shape[:2], source.shape[:2], strict=True)
        ]
        if not min(sides):
            return results
        # Top and left corner of the rectangle in this image, then in the other one.
        to, from_ = (
            [random.randint(0, whole - side) for whole, side in zip(x.shape, sides, strict=False)]
            for x in (image, source)
        )
        image = image.copy()
        image[_slices(to, sides)] = source[_slices(from_, sides)]
        results['img'] = image

        cut = np.array([*to[::-1], to[1] + sides[1], to[0] + sides[0]], dtype=np.float32)
        own = results['gt_bboxes'].tensor.numpy()
        visible = 1 - _areas(_clipped(own, cut)) / _areas(own).clip(min=1e-6)
        _keep(results, visible >= self.min_visible)
        moved = other['gt_bboxes'].tensor.numpy() + np.tile(np.subtract(to, from_)[::-1], 2)
        inside = _clipped(moved, cut)
        kept = _areas(inside) >= self.min_visible * _areas(moved).clip(min=1e-6)
        kept &= _areas(inside) > 0
        _keep(other, kept)
        boxes = HorizontalBoxes(inside[kept].astype(np.float32))
        weighted = _WEIGHTS in results or _WEIGHTS in other
        _join(results, other, boxes, *map(_weights, (results, other) if weighted else ()))
        return results


@TRANSFORMS.register_module()
class PackWeightedDetInputs(PackDetInputs):
    """mmdet's ``PackDetInputs``, which also packs the weights of boxes.

    They are ``gt_instances.weights``; :class:`.BatchedDINOHead` multiplies the losses of the
    queries of a box by its weight.
    """

    mapping_table = {**PackDetInputs.mapping_table, _WEIGHTS: 'weights'}


def _weights(sample: dict) -> np.ndarray:
    number = len(sample['gt_bboxes'])
    return sample.get(_WEIGHTS, np.ones(number, dtype=np.float32))


def _join(results: dict, other: dict, boxes: HorizontalBoxes, *weights: np.ndarray) -> None:
    """Adds the annotations of another sample, whose boxes are given, and weights of both."""
    results['gt_bboxes'] = results['gt_bboxes'].cat([results['gt_bboxes'], boxes], 0)
    for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
        if key in results:
            results[key] = np.concatenate([results[key], other[key]])
    if weights:
        results[_WEIGHTS] = np.concatenate(weights).astype(np.float32)


def _keep(sample: dict, kept: np.ndarray) -> None:
    for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', _WEIGHTS):
        if key in sample:
            sample[key] = sample[key][kept]


def _slices(corner: list[int], sides: list[int]) -> tuple[slice, ...]:
    return tuple(slice(a, a + side) for a, side in zip(corner, sides, strict=True))


def _clipped(boxes: np.ndarray, rectangle: np.ndarray) -> np.ndarray:
    """Cuts boxes (x1, y1, x2, y2), shape (N, 4), to a rectangle."""
    low, high = np.tile(rectangle[:2], 2), np.tile(rectangle[2:], 2)
    return boxes.clip(low, high)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)
