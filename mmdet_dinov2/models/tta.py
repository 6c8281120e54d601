"""Test-time augmentation: all views of an image as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample


@MODELS.register_module()
class PackedTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel`` that computes all views of its images in one call.

    mmdet's class calls the detector once for each view. Here all views, of any size, are one packed
    batch, and are merged as there: their boxes are turned back and go through one NMS for each
    class.

    Args:
        *args: As for mmdet's ``DetTTAModel``.
        **kwargs: As for mmdet's ``DetTTAModel``.
    """

    def test_step(self, data: dict[str, Sequence[Sequence[Any]]]) -> list[DetDataSample]:
        """Detects objects in images.

        Args:
            data: ``inputs`` and ``data_samples``: for each view a list with an entry for each
                image, as ``TestTimeAug`` and the collating of a dataloader make them.

        Returns:
            A data sample for each image, with the merged detections.
        """
        num_images = len(data['inputs'][0])
        flat = {key: [item for view in views for item in view] for key, views in data.items()}
        found = self.module.test_step(flat)
        return self.merge_preds([found[index::num_images] for index in range(num_images)])
