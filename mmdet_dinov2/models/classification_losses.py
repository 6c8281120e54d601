"""Classification losses of queries, in the form in which the head computes them at once."""

from __future__ import annotations

from mmdet.models.losses import FocalLoss
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..errors import InputError
from ..layers import focal_gap, ia_bce_gap, mal_gap, negative_focal_loss


class QueryLoss(nn.Module):
    """A classification loss of queries, of which few have a box.

    The loss of a batch is that of all queries as negatives, plus a gap where a query has a box.

    Args:
        loss_weight: Weight of the loss.
    """

    # mmdet's heads ask for it: one logit per class, none for the background.
    use_sigmoid = True
    # Whether `gap` needs overlaps.
    takes_overlaps = True

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def negative(self, logits: Tensor) -> Tensor:
        """Computes the loss of queries whose classes are all negative.

        Args:
            logits: Shape (..., classes).

        Returns:
            Sum over the classes, fp32, shape (...), not weighted.
        """
        raise NotImplementedError

    def gap(self, logits: Tensor, overlaps: Tensor | None) -> Tensor:
        """Computes the loss of logits as positives minus their loss as negatives.

        Args:
            logits: Logits of the classes of matched boxes, fp32, shape (M,).
            overlaps: IoU of predicted and matched boxes, without a gradient, shape (M,); None if
                the loss does not take them.

        Returns:
            Shape (M,), not weighted.
        """
        raise NotImplementedError


@MODELS.register_module()
class IABCELoss(QueryLoss):
    """IoU-aware binary cross-entropy of LW-DETR and RF-DETR; see :func:`.layers.ia_bce_gap`.

    Args:
        alpha: Share of the probability in the target, 0 to 1.
        gamma: Exponent of the weight of negatives, at least 0.
        loss_weight: Weight of the loss.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        if not 0 <= alpha <= 1:
            raise InputError(f'loss_cls.alpha of IABCELoss must be 0 to 1, but is {alpha!r}')
        self.alpha = alpha
        self.gamma = gamma

    def negative(self, logits: Tensor) -> Tensor:
        """Computes the loss of negatives; see :class:`QueryLoss`."""
        return negative_focal_loss(logits, alpha=0.0, gamma=self.gamma)

    def gap(self, logits: Tensor, overlaps: Tensor | None) -> Tensor:
        """Computes the gap of positives; see :class:`QueryLoss`."""
        return ia_bce_gap(logits, overlaps, self.alpha, self.gamma)


@MODELS.register_module()
class MALoss(QueryLoss):
    """Matchability-aware loss (MAL) of DEIM; see :func:`.layers.mal_gap`.

    Args:
        gamma: Exponent of overlaps and of the weight of negatives, at least 0.
        loss_weight: Weight of the loss.
    """

    def __init__(self, gamma: float = 1.5, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.gamma = gamma

    def negative(self, logits: Tensor) -> Tensor:
        """Computes the loss of negatives; see :class:`QueryLoss`."""
        return negative_focal_loss(logits, alpha=0.0, gamma=self.gamma, fixed_weights=True)

    def gap(self, logits: Tensor, overlaps: Tensor | None) -> Tensor:
        """Computes the gap of positives; see :class:`QueryLoss`."""
        return mal_gap(logits, overlaps, self.gamma)


class _Focal(QueryLoss):
    """mmdet's ``FocalLoss`` in two parts."""

    takes_overlaps = False

    def __init__(self, loss: FocalLoss) -> None:
        super().__init__(loss.loss_weight)
        self.settings = dict(alpha=loss.alpha, gamma=loss.gamma)

    def negative(self, logits: Tensor) -> Tensor:
        return negative_focal_loss(logits, **self.settings)

    def gap(self, logits: Tensor, overlaps: Tensor | None) -> Tensor:
        return focal_gap(logits, **self.settings)


def as_query_loss(loss: nn.Module, owner: str) -> QueryLoss:
    """Returns a configured loss in the form that the head computes.

    Args:
        loss: What was built from ``loss_cls``.
        owner: What has the loss, for the message.

    Raises:
        InputError: If there is no such form of it.
    """
    if isinstance(loss, QueryLoss):
        return loss
    # Not a subclass, whose loss would be a different one.
    if type(loss) is FocalLoss and not loss.activated:
        return _Focal(loss)
    activated = ' with activated=True' if getattr(loss, 'activated', False) else ''
    raise InputError(
        f'{owner} needs loss_cls of type FocalLoss, IABCELoss or MALoss that takes logits, got '
        f'{type(loss).__name__}{activated}'
    )
