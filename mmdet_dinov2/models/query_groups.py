"""Further groups of queries, which exist in training only."""

from __future__ import annotations

import copy

from mmdet.models.dense_heads import DINOHead
from torch import nn

from .query_selection import Selector


class QueryGroup(nn.Module):
    """One more group of queries: its content, and what selects its proposals.

    Group DETR (arXiv:2207.13085) trains several groups of queries, each of which is matched with
    all boxes and sees no other, so that a box has as many queries as there are groups. As in
    LW-DETR (arXiv:2406.03459), each group has a projection and heads of its own, with which it
    selects proposals from the encoder memory. Predictions need the first group only.

    Args:
        num_queries: Number of queries.
        embed_dims: Channels of the queries.
        head: The head whose branches of the encoder are copied.
    """

    def __init__(self, num_queries: int, embed_dims: int, head: DINOHead) -> None:
        super().__init__()
        self.query_embedding = nn.Embedding(num_queries, embed_dims)
        self.memory_trans_fc = nn.Linear(embed_dims, embed_dims)
        self.memory_trans_norm = nn.LayerNorm(embed_dims)
        self.cls_branch = copy.deepcopy(head.cls_branches[-1])
        self.reg_branch = copy.deepcopy(head.reg_branches[-1])

    def init_weights_like(self, head: DINOHead) -> None:
        """Initialises the group as the first one is, with a projection and content of its own.

        Args:
            head: The head, already initialised.
        """
        nn.init.xavier_uniform_(self.query_embedding.weight)
        nn.init.xavier_uniform_(self.memory_trans_fc.weight)
        self.cls_branch.load_state_dict(head.cls_branches[-1].state_dict())
        self.reg_branch.load_state_dict(head.reg_branches[-1].state_dict())

    @property
    def selector(self) -> Selector:
        """What selects the proposals of the group."""
        return Selector(
            self.memory_trans_fc, self.memory_trans_norm, self.cls_branch, self.reg_branch
        )
