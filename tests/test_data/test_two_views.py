"""Two views of an unlabeled photo: where they agree, and what is left out of a pipeline."""

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose

from mmdet_dinov2.data.seeded import SeededDataset, SeededIndex, seed_everything
from mmdet_dinov2.data.two_views import STRONG, two_view_pipeline
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.sample_meta import TEACHER_VIEW

PIPELINE = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoiceResize', scales=[(60, 60), (90, 90)], keep_ratio=True),
    dict(type='RandomCrop', crop_size=(40, 50)),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs'),
]


def photo(height=61, width=83):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return dict(img=pixels, img_shape=pixels.shape[:2], img_path='p.jpg', img_id=1, instances=[])


def views(seed, strong=STRONG):
    seed_everything(seed)
    packed = Compose(two_view_pipeline(PIPELINE, strong))(photo())
    return packed['data_samples'].get(TEACHER_VIEW), packed['inputs'], packed['data_samples']


def test_both_views_have_the_same_geometry():
    for seed in range(4):
        weak, strong, sample = views(seed, strong=())
        assert torch.equal(weak, strong)
        assert weak.dtype == torch.uint8 and tuple(weak.shape[1:]) == sample.img_shape
        assert len(sample.gt_instances) == 0


def test_the_strong_view_differs_in_pixels_only():
    changed = 0
    for seed in range(6):
        weak, strong, _ = views(seed)
        assert weak.shape == strong.shape
        assert torch.equal(weak, views(seed, strong=())[0])  # the draws of the geometry are first
        changed += not torch.equal(weak, strong)
    assert changed >= 5


def test_views_follow_the_seed():
    for first, second in zip(views(3)[:2], views(3)[:2], strict=True):
        assert torch.equal(first, second)


def test_what_needs_labels_is_left_out():
    mix = dict(type='MixSamples', transform=dict(type='BoxMixUp'), pre_transform=[])
    branches = dict(type='RandomChoice', transforms=[[mix, dict(type='RandomFlip')], [mix]])
    pipeline = two_view_pipeline(
        [*PIPELINE[:2], branches, *PIPELINE[4:6], dict(type='PackWeightedDetInputs')]
    )
    assert [t['type'] for t in pipeline[2:]] == ['RandomChoice', 'RandomCrop', 'PackTwoViews']
    assert pipeline[2]['transforms'] == [[dict(type='RandomFlip')], []]
    assert pipeline[3]['allow_negative_crop'] is True
    assert pipeline[4]['pack'] == dict(type='PackWeightedDetInputs')
    assert 'allow_negative_crop' not in PIPELINE[4]


@pytest.mark.parametrize('pipeline', [None, PIPELINE[:3]], ids=repr)
def test_a_pipeline_that_does_not_pack_is_refused(pipeline):
    with pytest.raises(InputError, match='ends with PackDetInputs or PackWeightedDetInputs'):
        two_view_pipeline(pipeline)


def test_a_strong_view_of_another_size_is_refused():
    with pytest.raises(InputError, match='change pixels, not places'):
        views(0, strong=[dict(type='Resize', scale=(20, 20))])


def test_photos_follow_the_labeled_images():
    dataset = SeededDataset(['a', 'b'], ['c', 'd', 'e'])
    assert len(dataset) == 2  # what samplers see
    assert [dataset[SeededIndex(index, 0)] for index in range(5)] == list('abcde')
