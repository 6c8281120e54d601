"""True and predicted masks of a batch, compared for matching and for the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .mask_head import MaskHead
from .mask_queries import MaskQueries, PixelEmbedding
from .mask_targets import MaskTargets

# Logits of masks computed at once for matching: 2**26 numbers of 4 bytes, plus a few intermediate
# results of that size.
_LOGITS_AT_ONCE = 2**26
# On a CPU, where intermediate results should stay in the cache: 1 MiB.
_LOGITS_IN_CACHE = 2**18


@dataclass(frozen=True)
class MaskPairs:
    """Queries that should predict a mask, in R rows of M pairs, sorted by image.

    Attributes:
        layer: Index of the decoder layer, shape (R, M).
        query: Index of the query, shape (R, M).
        target: Index of the mask within its image, shape (R, M).
        weight: Weight of the losses of each pair, shape (R, M).
        counts: Number of pairs of each image in a row.
    """

    layer: Tensor
    query: Tensor
    target: Tensor
    weight: Tensor
    counts: tuple[int, ...]

    def of_images(self) -> Iterator[tuple[Tensor, ...]]:
        """Yields layer, query, target and weight of the pairs of each image, shape (R, m)."""
        values = (self.layer, self.query, self.target, self.weight)
        return zip(*(v.split(self.counts, 1) for v in values), strict=True)


class MaskSupervision:
    """What the masks of a batch are compared with, at the points of each image.

    Args:
        head: The head.
        pixels: Embedding of the pixels.
        targets: True masks at the points.
        states: Queries after each of L decoder layers, shape (L, B, Q, C).
    """

    def __init__(
        self, head: MaskHead, pixels: PixelEmbedding, targets: MaskTargets, states: Tensor
    ) -> None:
        self._head = head
        self._targets = targets
        self._states = states
        self._features = head.sample(pixels, targets.points)
        self._num_points = [head.num_points_of(grid) for grid in pixels.grids]

    @torch.no_grad()
    def match_costs(
        self, boxes: Tensor, first: int, cost: Callable[[Tensor, Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Computes the costs of matching masks, at random points.

        Args:
            boxes: Boxes of all queries of all layers, shape (L, B, Q, 4).
            first: Queries before this one are not matched.
            cost: Takes logits (N, points) and whether true masks cover the points, 0 or 1,
                (T, points), and returns costs (T, N).

        Yields:
            For each image, shape (L, T, matched queries); 0 where a mask is not known.
        """
        states, boxes = self._states[:, :, first:], boxes[:, :, first:]
        limit = _LOGITS_IN_CACHE if boxes.device.type == 'cpu' else _LOGITS_AT_ONCE
        for image, count in enumerate(self._num_points):
            inside = self._targets.inside[image][:, :count].to(boxes.dtype)
            if not len(inside):
                yield boxes.new_zeros(len(boxes), 0, boxes.shape[2])
                continue
            points, features = self._targets.points[image][:count], self._features[image][:count]
            queries = self._head.queries(
                states[:, image].flatten(0, 1), boxes[:, image].flatten(0, 1)
            )
            size = max(1, limit // count)
            costs = [
                cost(_logits(queries.take(slice(start, start + size)), features, points), inside)
                for start in range(0, len(queries.boxes), size)
            ]
            costs = torch.cat(costs, 1) * self._targets.known[image][:, None]
            yield costs.unflatten(1, (len(boxes), -1)).transpose(0, 1)

    def losses(self, boxes: Tensor, sets: Sequence[MaskPairs]) -> list[dict[str, Tensor]]:
        """Computes the losses of queries that should predict a mask.

        Args:
            boxes: Boxes of all queries of all layers, shape (L, B, Q, 4).
            sets: Pairs of queries and masks.

        Returns:
            For each set, ``loss_mask`` and ``loss_dice`` of each row, shape (R,).
        """
        sums: list[dict[str, Tensor]] = [{} for _ in sets]
        of_images = zip(*(pairs.of_images() for pairs in sets), strict=True)
        for image, of_sets in enumerate(of_images):
            flat = ((values.flatten() for values in of_set) for of_set in of_sets)
            layer, query, target, weight = map(torch.cat, zip(*flat, strict=True))
            losses = self._of_pairs(image, boxes, layer, query, target)
            weight = weight * self._targets.known[image][target]
            sizes = [of_set[0].shape for of_set in of_sets]
            for name, values in losses.items():
                parts = (values * weight).split([size.numel() for size in sizes])
                for of_set, part, size in zip(sums, parts, sizes, strict=True):
                    of_set[name] = of_set.get(name, 0) + part.view(size).sum(1)
        return sums

    def _of_pairs(
        self, image: int, boxes: Tensor, layer: Tensor, query: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Computes the losses of the pairs of an image, each of shape (pairs,)."""
        points, inside = self._targets.points[image], self._targets.inside[image]
        queries = self._head.queries(self._states[layer, image, query], boxes[layer, image, query])
        logits = queries.vectors @ self._features[image].T
        with torch.no_grad():
            chosen = self._head.losses.choose(
                logits + queries.of_place(points), self._num_points[image]
            )
        # The place is computed again for the chosen points alone, of which there are fewer.
        logits = logits.gather(1, chosen) + queries.of_place(points[chosen])
        return self._head.losses(logits, inside[target].gather(1, chosen))


def _logits(queries: MaskQueries, features: Tensor, points: Tensor) -> Tensor:
    return queries.vectors @ features.T + queries.of_place(points)
