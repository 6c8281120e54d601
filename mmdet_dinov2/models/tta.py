"""Test-time augmentation: all views of an image as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ..instance_masks import RunLengths, decode_mask, encode_masks, run_lengths

# Axes of a mask that a flip of the image turns around.
_FLIPPED_AXES = dict(horizontal=(1,), vertical=(0,), diagonal=(0, 1))


@MODELS.register_module()
class PackedTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel`` that computes all views of its images in one call.

    mmdet's class calls the detector once for each view. Here all views, of any size, are one packed
    batch, and are merged as there: their boxes are turned back and go through one NMS for each
    class. Masks, which mmdet's class refuses, follow their boxes.

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

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        # Private: mmdet's class calls it for each image.
        views = [sample.pred_instances for sample in data_samples]
        if views[0].get('masks') is None:
            return super()._merge_single_sample(data_samples)
        metas = [sample.metainfo for sample in data_samples]
        boxes, scores = self.merge_aug_bboxes(
            [view.bboxes for view in views], [view.scores for view in views], metas
        )
        labels = torch.cat([view.labels for view in views])
        masks = [
            (mask, meta)
            for view, meta in zip(views, metas, strict=True)
            for mask in run_lengths(view.masks)
        ]
        if len(boxes):
            found, kept = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
            found, kept = found[: self.tta_cfg.max_per_img], kept[: self.tta_cfg.max_per_img]
            data_samples[0].pred_instances = InstanceData(
                bboxes=found[:, :-1],
                scores=found[:, -1],
                labels=labels[kept],
                masks=[_turned_back(*masks[index]) for index in kept.tolist()],
            )
        return data_samples[0]


def _turned_back(mask: RunLengths, meta: Mapping[str, Any]) -> RunLengths:
    """Returns a mask as it lies in the image that is not flipped."""
    if not meta['flip']:
        return mask
    return encode_masks([np.flip(decode_mask(mask), _FLIPPED_AXES[meta['flip_direction']])])[0]
