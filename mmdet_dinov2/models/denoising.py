"""Denoising queries of DINO, for each image by itself, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.models.layers.transformer import CdnQueryGenerator, inverse_sigmoid
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..layers import TokenwiseModule, tokenwise
from ..layers.boxes import corners_of
from .targets import BoxTargets

# Random numbers of a query: label chosen, new label, distance and sign of four coordinates.
_NUMBERS_PER_QUERY = 10


@dataclass(frozen=True)
class DenoisingLayout:
    """Box and group of each denoising query of a batch.

    An image with n boxes and G groups has 2 * G * n queries: in each group first n positive, then n
    negative ones. Images with fewer queries are padded to the D queries of the image with the most.

    Attributes:
        groups: Number of groups of each image.
        group: Group of each query, shape (B, D).
        target: Index of its box, shape (B, D).
        negative: Whether the query is negative, shape (B, D).
        valid: Whether the query is not padding, shape (B, D).
    """

    groups: tuple[int, ...]
    group: Tensor
    target: Tensor
    negative: Tensor
    valid: Tensor

    @classmethod
    def of(cls, counts: tuple[int, ...], groups: tuple[int, ...]) -> DenoisingLayout:
        """Lays out the queries on the CPU, given the number of boxes and groups of each image."""
        lengths = [2 * num * count for num, count in zip(groups, counts, strict=True)]
        place = torch.arange(max(lengths))
        count = torch.tensor(counts)[:, None].clamp(min=1)
        within = place % (2 * count)
        return cls(
            groups=groups,
            group=place // (2 * count),
            target=within % count,
            negative=within >= count,
            valid=place < torch.tensor(lengths)[:, None],
        )

    def to(self, device: torch.device) -> DenoisingLayout:
        """Moves the tensors to a device, in one transfer."""
        tensors = torch.stack((self.group, self.target, self.negative.long(), self.valid.long()))
        group, target, negative, valid = tensors.to(device, non_blocking=True)
        return DenoisingLayout(self.groups, group, target, negative.bool(), valid.bool())

    def positives(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns image, query and box of all positive queries, three tensors of shape (M,)."""
        image, query = (self.valid & ~self.negative).nonzero(as_tuple=True)
        return image, query, self.target[image, query]

    def weights(self) -> Tensor:
        """Returns the weight of each query in the loss of its image, shape (B, D).

        It is 1 / groups, and 0 at padding.
        """
        groups = torch.tensor(self.groups).to(self.valid.device, non_blocking=True)
        return self.valid / groups[:, None]


class DenoisingQueryGenerator(TokenwiseModule, CdnQueryGenerator):
    """Contrastive denoising queries (DINO, arXiv:2203.03605, section 3.3).

    Differences from mmdet's ``CdnQueryGenerator``:

    - Each image has as many groups as fit into ``num_dn_queries``. In mmdet all images have the
      groups of the image with the most boxes. The loss of an image is the mean over its groups, and
      its noise is drawn from the seed of its sample. So the denoising loss of an image depends
      neither on its batch mates nor on how a batch is divided over processes.
    - Padding queries are hidden and have no loss. mmdet's are visible to the other queries and
      count as background.
    - An image with very many boxes contributes a random sample of them. mmdet makes two queries for
      every box, so that one crowded image determines the memory of the whole batch.

    Args:
        *args: As for mmdet's ``CdnQueryGenerator``.
        max_boxes: Largest number of boxes per image that get queries, at least 1. None takes
            ``num_dn_queries`` with dynamic groups, and all boxes with static groups.
        compiled: Whether the noise is computed by compiled code.
        **kwargs: As for mmdet's ``CdnQueryGenerator``.

    Raises:
        ValueError: If ``max_boxes`` is less than 1.
    """

    def __init__(
        self, *args, max_boxes: int | None = None, compiled: bool = False, **kwargs
    ) -> None:
        super().__init__(*args, compiled=compiled, **kwargs)
        if max_boxes is not None and max_boxes < 1:
            raise ValueError(f'dn_cfg.max_boxes must be at least 1, got {max_boxes}')
        if max_boxes is None and self.dynamic_dn_groups:
            max_boxes = max(1, self.num_dn_queries)
        self.max_boxes = max_boxes

    def __call__(
        self, targets: BoxTargets, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, dict]:
        """Makes the queries of a batch.

        Args:
            targets: Boxes of B images.
            seeds: Seed of the noise of each image.

        Returns:
            The content queries (B, D, C); the logits of their boxes (cx, cy, w, h) relative to the
            image (B, D, 4); the attention mask (B, D + matching queries, same), True where
            attention is not allowed; and a dict with ``num_denoising_queries`` (D), ``layout`` (a
            :class:`DenoisingLayout` on the CPU), ``targets`` (all boxes), ``denoised`` (the boxes
            that have queries) and ``max_boxes``.
        """
        device = self.label_embedding.weight.device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        chosen = targets
        if self.max_boxes is not None:
            chosen = targets.sample(self.max_boxes, generators)
        groups = tuple(self.get_num_groups(count) for count in chosen.counts)
        layout = DenoisingLayout.of(chosen.counts, groups)
        lengths = layout.valid.sum(1).tolist()
        noise = pad_sequence(
            [
                torch.rand(length, _NUMBERS_PER_QUERY, generator=generator)
                for length, generator in zip(lengths, generators, strict=True)
            ],
            batch_first=True,
        ).to(device, non_blocking=True)
        placed = layout.to(device)
        if chosen.labels.shape[1]:
            labels = chosen.labels.gather(1, placed.target)
            boxes = chosen.boxes.gather(1, placed.target[..., None].expand(-1, -1, 4))
        else:  # none of the images has a box
            labels, boxes = chosen.labels, chosen.boxes
        per_query = (labels, boxes, placed.negative, placed.valid, noise)
        noisy_labels, logits = self._with_noise(*(t.flatten(0, 1) for t in per_query))
        content = self.label_embedding(noisy_labels.view(labels.shape)) * placed.valid[..., None]
        dn_meta = dict(
            num_denoising_queries=content.shape[1],
            layout=layout,
            targets=targets,
            denoised=chosen,
            max_boxes=self.max_boxes,
        )
        return content, logits.view(boxes.shape), self._attention_mask(placed), dn_meta

    @tokenwise
    def _with_noise(
        self, labels: Tensor, boxes: Tensor, negative: Tensor, valid: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns noisy labels (N,) and the logits of noisy boxes, 0 at padding, shape (N, 4)."""
        boxes = self._noisy_boxes(boxes, negative, noise[..., 2:])
        logits = inverse_sigmoid(boxes, eps=1e-3) * valid[..., None]
        return self._noisy_labels(labels, noise[..., :2]), logits

    def _noisy_labels(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Replaces a share of ``label_noise_scale / 2`` of the labels with random classes.

        Args:
            labels: Shape (...).
            noise: Random numbers in [0, 1), shape (..., 2).
        """
        chosen = noise[..., 0] < self.label_noise_scale / 2
        return torch.where(chosen, (noise[..., 1] * self.num_classes).long(), labels)

    def _noisy_boxes(self, boxes: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
        """Moves the corners of boxes.

        Corners of positive queries move by less than ``box_noise_scale / 2`` of the side, those of
        negative queries by up to twice as much.

        Args:
            boxes: Boxes (cx, cy, w, h) relative to the image, shape (..., 4).
            negative: Shape (...).
            noise: Random numbers in [0, 1), shape (..., 8).
        """
        corners = corners_of(boxes)
        distance = noise[..., :4] + negative[..., None]
        sign = torch.where(noise[..., 4:] < 0.5, -1.0, 1.0)
        sides = torch.cat((boxes[..., 2:], boxes[..., 2:]), -1)
        corners = corners + distance * sign * sides * self.box_noise_scale / 2
        return bbox_xyxy_to_cxcywh(corners.clamp(0.0, 1.0))

    def _attention_mask(self, layout: DenoisingLayout) -> Tensor:
        """Hides denoising queries from all queries outside their group.

        They see their group and the matching queries.
        """
        matching = (0, self.num_matching_queries)
        group = F.pad(layout.group, matching, value=-1)
        other_group = (group[:, None] != group[:, :, None]) & (group >= 0)[:, None]
        empty = F.pad(~layout.valid, matching, value=False)
        return other_group | empty[:, None]
