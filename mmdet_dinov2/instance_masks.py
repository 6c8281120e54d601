"""The forms in which masks of instances travel from annotations to a model, and on to files.

Training samples carry mmdet's ``gt_instances.masks``: ``BitmapMasks``, or ``PolygonMasks`` where
the config asks for them with ``poly2mask=False``. A mask without any pixel stands for an object
whose mask is not known: its box is learned, its mask is not.

Predictions carry ``pred_instances.masks``, of the size of the picture itself (``ori_shape``), in
one of two forms, which everything behind the model takes through :func:`run_lengths`:

- a tensor or array, (N, H, W), bool, as mmdet's detectors give it;
- a list of N dicts in COCO's run-length encoding, with ``size``, ``[H, W]``, and ``counts``, bytes.
  A mask of 12 megapixels then takes about a kilobyte in place of 12 megabytes, so a head that
  finds many objects encodes a few masks at a time, with :func:`encode_masks`, and gives this list.

Run lengths are what is kept of a prediction, gathered from processes, scored and written to files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

# COCO's run lengths of one mask.
RunLengths = dict[str, Any]


def encode_masks(masks: np.ndarray | torch.Tensor | Iterable[np.ndarray]) -> list[RunLengths]:
    """Returns masks as COCO's run lengths.

    Args:
        masks: N masks of H x W, whose pixels are 0 or 1 (or bool).

    Returns:
        N dicts with ``size``, ``[H, W]``, and ``counts``, compressed, as bytes.
    """
    if isinstance(masks, torch.Tensor):
        masks = masks.detach().cpu().numpy()
    # One at a time: the encoder needs another layout, which is a copy.
    return [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]


def run_lengths(
    masks: np.ndarray | torch.Tensor | Sequence[Mapping[str, Any]],
) -> list[RunLengths]:
    """Returns predicted masks as COCO's run lengths, whichever form they have."""
    if isinstance(masks, (np.ndarray, torch.Tensor)):
        return encode_masks(masks)
    return [dict(mask) for mask in masks]


def as_text(mask: Mapping[str, Any]) -> RunLengths:
    """Returns the run lengths of a mask as COCO's JSON files have them, with ``counts`` as text."""
    counts = mask['counts']
    text = counts.decode() if isinstance(counts, bytes) else counts
    return dict(size=list(mask['size']), counts=text)


def decode_mask(mask: Mapping[str, Any]) -> np.ndarray:
    """Returns a mask as an array.

    Args:
        mask: Run lengths from :func:`encode_masks`, or from a file after they have been checked.

    Returns:
        (H, W), bool.
    """
    return coco_mask.decode(dict(mask)).astype(bool)


def mask_areas(masks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns the numbers of pixels of masks, (N,) int64."""
    return np.array([coco_mask.area(dict(mask)) for mask in masks], dtype=np.int64)
