"""Takes the crops of a batch out of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, stack

from ..errors import InputError
from ..sample_meta import CROP_SHAPES, NUM_GLOBAL_CROPS


@MODELS.register_module()
class CropDataPreprocessor(ImgDataPreprocessor):
    """Unpacks and normalises the crops of ``PackCrops``.

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        bgr_to_rgb: Whether channels are turned around first.
        non_blocking: Whether copies to the device may overlap with computation.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr_to_rgb: bool = True,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(mean=mean, std=std, bgr_to_rgb=bgr_to_rgb, non_blocking=non_blocking)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Makes groups of crops of one size.

        Args:
            data: ``inputs``, the pixels of the crops of each image, and ``data_samples``.
            training: Ignored.

        Returns:
            ``inputs``, the groups of the global and of the local crops, and ``data_samples``. A
            group has shape (n, 3, H, W). Of the B images, the first B crops are the first ones of
            all images, the next B the second ones, and so on.

        Raises:
            InputError: If the images have different numbers of crops.
        """
        data = self.cast_data(data)
        images = [
            _unpack(pixels, sample.metainfo[CROP_SHAPES])
            for pixels, sample in zip(data['inputs'], data['data_samples'], strict=True)
        ]
        counts = {len(crops) for crops in images}
        if len(counts) > 1:
            raise InputError(
                f'the images of a batch have {sorted(counts)} crops; use one MultiView for all'
            )
        views = list(zip(*images, strict=True))
        groups = tuple(
            [self._normalised(group) for group in _by_size(part)]
            for part in (views[:NUM_GLOBAL_CROPS], views[NUM_GLOBAL_CROPS:])
        )
        return dict(inputs=groups, data_samples=data['data_samples'])

    def _normalised(self, crops: Sequence[Tensor]) -> Tensor:
        batch = stack(list(crops))
        if self._channel_conversion:
            batch = batch.flip(1)
        return (batch.float() - self.mean) / self.std


def _unpack(pixels: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    parts = pixels.split([3 * height * width for height, width in shapes])
    return [part.view(3, *shape) for part, shape in zip(parts, shapes, strict=True)]


def _by_size(views: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Returns runs of crops of one size."""
    crops = [crop for view in views for crop in view]
    return [list(run) for _, run in groupby(crops, key=lambda crop: crop.shape)]
