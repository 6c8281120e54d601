"""Ground truth of a batch in tensors of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..sample_meta import IMAGE_WEIGHT, UNSURE_BOXES


@dataclass(frozen=True)
class BoxTargets:
    """Boxes of B images, padded to T, the largest number of boxes of an image.

    Attributes:
        labels: Class indices, shape (B, T); 0 at padding.
        boxes: Boxes (cx, cy, w, h) relative to the image, fp32, shape (B, T, 4); 0 at padding.
        sizes: Width, height, width, height of each image in pixels, shape (B, 4).
        counts: Number of boxes of each image, on the host.
        chosen: Numbers of these boxes among those of their image, shape (B, T); None if they are
            all.
        weights: Weight of each box in the losses, shape (B, T), that of its image included; None
            takes 1.
        image_weights: Weight of each image in the losses, shape (B,); None takes 1.
        unsure: Boxes (cx, cy, w, h) relative to the image of what may be an object or not, shape
            (B, U, 4), 0 at padding; None if there are none. Queries on them are not background.
    """

    labels: Tensor
    boxes: Tensor
    sizes: Tensor
    counts: tuple[int, ...]
    chosen: Tensor | None = None
    weights: Tensor | None = None
    image_weights: Tensor | None = None
    unsure: Tensor | None = None

    @classmethod
    def collate(cls, batch_data_samples: SampleList) -> BoxTargets:
        """Collates the ground truth of mmdet's data samples.

        Args:
            batch_data_samples: For each image its ``img_shape`` and, in ``gt_instances``,
                ``labels`` of shape (N,), ``bboxes`` (x1, y1, x2, y2) in pixels, shape (N, 4), and
                optionally ``weights`` of shape (N,). ``IMAGE_WEIGHT`` and ``UNSURE_BOXES`` of
                :mod:`mmdet_dinov2.sample_meta` are optional, too.

        Returns:
            The collated boxes.
        """
        labels = [sample.gt_instances.labels for sample in batch_data_samples]
        boxes = [sample.gt_instances.bboxes.float() for sample in batch_data_samples]
        device = labels[0].device
        shapes = [sample.img_shape for sample in batch_data_samples]
        sizes = torch.tensor([(w, h, w, h) for h, w in shapes], dtype=torch.float32)
        sizes = sizes.to(device, non_blocking=True)
        pixels = pad_sequence(boxes, batch_first=True)
        weights = None
        if any('weights' in sample.gt_instances for sample in batch_data_samples):
            weights = pad_sequence(
                [
                    sample.gt_instances.get('weights', boxes_of_image.new_ones(len(boxes_of_image)))
                    for sample, boxes_of_image in zip(batch_data_samples, boxes, strict=True)
                ],
                batch_first=True,
            )
        image_weights = unsure = None
        if any(IMAGE_WEIGHT in sample.metainfo for sample in batch_data_samples):
            image_weights = torch.tensor(
                [sample.metainfo.get(IMAGE_WEIGHT, 1.0) for sample in batch_data_samples]
            ).to(device, non_blocking=True)
            of_boxes = image_weights[:, None].expand(pixels.shape[:2])
            weights = of_boxes if weights is None else weights * of_boxes
        if any(UNSURE_BOXES in sample for sample in batch_data_samples):
            of_images = [
                sample.get(UNSURE_BOXES, pixels.new_zeros(0, 4)) for sample in batch_data_samples
            ]
            unsure = bbox_xyxy_to_cxcywh(pad_sequence(of_images, batch_first=True) / sizes[:, None])
        return cls(
            labels=pad_sequence(labels, batch_first=True),
            boxes=bbox_xyxy_to_cxcywh(pixels / sizes[:, None]),
            sizes=sizes,
            counts=tuple(len(image) for image in labels),
            weights=weights,
            image_weights=image_weights,
            unsure=unsure,
        )

    def sample(self, max_boxes: int, generators: Sequence[torch.Generator]) -> BoxTargets:
        """Keeps at most ``max_boxes`` boxes of each image, drawn at random without replacement.

        Args:
            max_boxes: Largest number of boxes per image.
            generators: Random numbers of each image.

        Returns:
            The kept boxes.
        """
        if max(self.counts) <= max_boxes:
            return self
        chosen = [
            torch.randperm(count, generator=generator)[:max_boxes]
            if count > max_boxes
            else torch.arange(count)
            for count, generator in zip(self.counts, generators, strict=True)
        ]
        index = pad_sequence(chosen, batch_first=True).to(self.labels.device)
        return BoxTargets(
            labels=self.labels.gather(1, index),
            boxes=self.boxes.gather(1, index[..., None].expand(-1, -1, 4)),
            sizes=self.sizes,
            counts=tuple(len(image) for image in chosen),
            chosen=index,
            weights=None if self.weights is None else self.weights.gather(1, index),
            image_weights=self.image_weights,
        )
