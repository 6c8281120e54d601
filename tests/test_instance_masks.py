"""The forms in which predictions carry masks."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdet_dinov2.instance_masks import decode_mask, encode_masks, mask_areas, run_lengths

MASKS = np.random.default_rng(0).uniform(size=(3, 5, 8)) < 0.4


@pytest.mark.parametrize(
    'masks', [MASKS, MASKS.astype(np.uint8), torch.from_numpy(MASKS), encode_masks(MASKS)]
)
def test_every_form_gives_the_same_run_lengths(masks):
    found = run_lengths(masks)
    assert found == encode_masks(MASKS)
    assert found[0]['size'] == [5, 8] and isinstance(found[0]['counts'], bytes)
    assert (np.stack([decode_mask(mask) for mask in found]) == MASKS).all()
    assert mask_areas(found).tolist() == MASKS.sum(axis=(1, 2)).tolist()


def test_no_masks():
    assert run_lengths(torch.zeros(0, 5, 8, dtype=torch.bool)) == run_lengths([]) == []
    assert mask_areas([]).shape == (0,)


def test_detections_that_are_chosen_keep_their_run_lengths():
    scores = torch.tensor([0.9, 0.2, 0.5])
    found = InstanceData(scores=scores, masks=encode_masks(MASKS))
    kept = found[found.scores > 0.3]
    assert (np.stack([decode_mask(mask) for mask in kept.masks]) == MASKS[[0, 2]]).all()
