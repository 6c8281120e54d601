"""Choice of the cells of the encoder memory whose proposals become queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers import PyramidLayout

# Classification logit of queries without a proposal. They carry no gradient.
_FILLER_LOGIT = -10.0
# Logit of the width and height of their boxes, which stand for the whole image: sigmoid gives 0.98.
_FILLER_SIDE = 4.0


class Selector(NamedTuple):
    """What scores the proposals for one group of queries, and refines their boxes.

    Attributes:
        memory_trans_fc: Linear layer in front of the branches.
        memory_trans_norm: Norm behind it.
        cls_branch: Gives the class logits of a cell.
        reg_branch: Gives what is added to the logits of its box.
    """

    memory_trans_fc: nn.Module
    memory_trans_norm: nn.Module
    cls_branch: nn.Module
    reg_branch: nn.Module


def select_queries(
    selectors: Sequence[Selector],
    memory: Tensor,
    layout: PyramidLayout,
    num_queries: int,
    in_grid: bool,
) -> tuple[Tensor, Tensor]:
    """Selects the proposals that become queries, in fp32.

    Args:
        selectors: One for each group of queries.
        memory: Encoder output, a stream of cells of shape (T, C).
        layout: Where the cells come from.
        num_queries: Number of queries of a group.
        in_grid: Whether coordinates are relative to the grids, where proposals too close to the
            border take part as well.

    Returns:
        Class logits (B, groups * num_queries, classes) and logits of the boxes (cx, cy, w, h), one
        group after the other, best first.
    """
    chosen = []
    with torch.autocast(memory.device.type, enabled=False):
        proposals, usable = box_proposals(layout, other=1.0 if in_grid else 0.5)
        cells = memory.float().masked_fill(~usable[..., None], 0.0)
        if in_grid:
            usable = torch.ones_like(usable)
        for selector in selectors:
            features = selector.memory_trans_norm(selector.memory_trans_fc(cells))

            def boxes_of(
                index: Tensor, features: Tensor = features, regress: nn.Module = selector.reg_branch
            ) -> Tensor:
                return regress(features[index]) + proposals[index]

            scores = selector.cls_branch(features)
            chosen.append(best_proposals(scores, boxes_of, usable, layout, num_queries))
        scores, boxes = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
    return scores, boxes


def box_proposals(layout: PyramidLayout, other: float = 0.5) -> tuple[Tensor, Tensor]:
    """Makes one box proposal for each cell of the encoder memory.

    Args:
        layout: Where the cells come from.
        other: What stands for the numbers of a box that is not usable: 0.5 has a logit of 0, 1 an
            infinite one.

    Returns:
        Logits of the boxes (cx, cy, w, h) relative to the image, shape (T, 4); and whether a
        proposal is usable, shape (T,). As in Deformable DETR, all four numbers of a usable one lie
        in (0.01, 0.99).
    """
    sides = (0.05 * 2**layout.levels)[:, None].expand(-1, 2)
    boxes = torch.cat((layout.centers, sides), -1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1)
    return torch.logit(boxes.masked_fill(~usable[:, None], other)), usable


def best_proposals(
    scores: Tensor,
    boxes_of: Callable[[Tensor], Tensor],
    usable: Tensor,
    layout: PyramidLayout,
    num_queries: int,
) -> tuple[Tensor, Tensor]:
    """Keeps the best usable proposals of each image, best first.

    Boxes are computed for these alone: the scores decide.

    Args:
        scores: Class logits, shape (T, classes).
        boxes_of: Returns the box logits of the proposals with the numbers of a tensor.
        usable: Shape (T,).
        layout: Where the cells come from.
        num_queries: Number of proposals to keep.

    Returns:
        Logits of the kept scores (B, num_queries, classes) and boxes (B, num_queries, 4). If fewer
        are usable, the last ones are constant: low scores, and a box that is the whole image.
    """
    ranking = scores.detach().amax(-1).masked_fill(~usable, -torch.inf)
    ranking, index = layout.best(ranking, num_queries)
    filler = torch.isneginf(ranking)[..., None]
    index = index.masked_fill(filler[..., 0], 0)
    # Each row is taken at most once, except by fillers, whose gradient is 0: no sum depends on the
    # order of additions.
    scores = scores.index_select(0, index.flatten()).unflatten(0, index.shape)
    boxes = boxes_of(index)
    whole_image = torch.zeros_like(boxes[0, 0])
    whole_image[2:] = _FILLER_SIDE
    return (
        scores.masked_fill(filler, _FILLER_LOGIT),
        torch.where(filler, whole_image, boxes),
    )
