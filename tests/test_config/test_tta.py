"""Views of a test pipeline, and their merging."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from mmdet_dinov2.checkpoint import load_state_dict
from mmdet_dinov2.checkpoint.load_detector import inner_model
from mmdet_dinov2.config.tta import SCALES, tta_model, tta_pipeline, use_tta
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.instance_masks import decode_mask, encode_masks
from mmdet_dinov2.models import PackedTTAModel

from ..tiny import detector_cfg

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(100, 50), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'instances')),
]


def test_every_scale_is_seen_flipped_and_not():
    first, views = tta_pipeline(PIPELINE)
    assert first == PIPELINE[0] and views['type'] == 'TestTimeAug'
    resizes, flips, annotations, (pack,) = views['transforms']
    assert [r['scale'] for r in resizes] == [(100, 50), (80, 40), (120, 60)]
    assert [flip['prob'] for flip in flips] == [0.0, 1.0]
    assert annotations == [PIPELINE[2]]
    assert {'instances', 'flip', 'flip_direction', 'scale_factor'} < set(pack['meta_keys'])
    square = [PIPELINE[0], dict(type='Resize', scale=50), PIPELINE[3]]
    scales = [resize['scale'] for resize in tta_pipeline(square)[1]['transforms'][0]]
    assert scales == [(50, 50), (40, 40), (60, 60)]


@pytest.mark.parametrize(
    ('pipeline', 'message'),
    [
        (PIPELINE[:1] + PIPELINE[2:], 'with one Resize and PackDetInputs at the end'),
        (PIPELINE[:-1], 'PackDetInputs'),
        ([PIPELINE[0], dict(type='Resize', scale_factor=2.0), PIPELINE[3]], 'Resize with a scale'),
    ],
)
def test_other_pipelines_name_the_setting(pipeline, message):
    with pytest.raises(InputError, match=f'{message}.*set tta_pipeline'):
        tta_pipeline(pipeline)


def test_the_config_decides_where_it_says_something():
    loader = dict(dataset=dict(dataset=dict(pipeline=PIPELINE)))
    cfg = Config(dict(model=detector_cfg(), test_dataloader=loader))
    several = dict(datasets=[dict(pipeline=PIPELINE), dict(dataset=dict(pipeline=PIPELINE))])
    joined = Config(dict(model=detector_cfg(), test_dataloader=dict(dataset=several)))
    use_tta(joined)
    first, second = joined.test_dataloader.dataset.datasets
    assert first.pipeline == second.dataset.pipeline == tta_pipeline(PIPELINE)
    own = Config(dict(cfg, tta_model=dict(type='Other'), tta_pipeline=PIPELINE[:1]))
    use_tta(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline[-1].type == 'TestTimeAug'
    assert cfg.model.type == 'PackedTTAModel' and cfg.model.module.type == 'PaddingAwareDINO'
    assert cfg.model.tta_cfg.max_per_img == 20
    use_tta(own)
    assert own.test_dataloader.dataset.dataset.pipeline == PIPELINE[:1]
    assert own.model.type == 'Other'
    rcnn = tta_model(dict(type='FasterRCNN', test_cfg=dict(rcnn=dict(max_per_img=7))))
    assert rcnn.tta_cfg.max_per_img == 7


class Detector(nn.Module):
    """Finds the same two objects in every view; the flipped views give the first a better score."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def test_step(self, data):
        self.calls += 1
        assert len(data['inputs']) == len(data['data_samples'])
        for sample in data['data_samples']:
            boxes = torch.tensor([[10.0, 5.0, 30.0, 20.0], [10.0, 5.0, 30.0, 20.0]])
            boxes = boxes + sample.img_id
            if sample.flip:
                boxes = bbox_flip(boxes, sample.ori_shape, sample.flip_direction)
            scores = torch.tensor([0.9 if sample.flip else 0.6, 0.5])
            sample.pred_instances = InstanceData(
                bboxes=boxes, scores=scores, labels=torch.tensor([0, 1])
            )
        return data['data_samples']


def views_of(num_images):
    """Data samples of each view: for each of them one of each image."""
    return [
        [
            DetDataSample(
                metainfo=dict(
                    img_id=index, ori_shape=(50, 100), flip=flip,
                    flip_direction='horizontal' if flip else None,
                )
            )
            for index in range(num_images)
        ]
        for _ in SCALES
        for flip in (False, True)
    ]  # fmt: skip


def test_all_views_are_one_call_and_merge_by_class():
    detector = Detector()
    model = PackedTTAModel(
        module=detector,
        tta_cfg=Config(dict(nms=dict(type='nms', iou_threshold=0.7), max_per_img=3)),
    )
    samples = views_of(3)
    found = model.test_step(dict(inputs=samples, data_samples=samples))
    assert detector.calls == 1 and [sample.img_id for sample in found] == [0, 1, 2]
    for index, sample in enumerate(found):
        merged = sample.pred_instances
        assert merged.labels.tolist() == [0, 1]  # the same box of two classes stays two
        assert merged.scores.tolist() == pytest.approx([0.9, 0.5])
        box = [10 + index, 5 + index, 30 + index, 20 + index]
        torch.testing.assert_close(merged.bboxes, torch.tensor([box, box]).float())
    samples = views_of(3)
    one_by_one = super(PackedTTAModel, model).test_step(dict(inputs=samples, data_samples=samples))
    assert detector.calls == 1 + 2 * len(SCALES)
    for one, other in zip(found, one_by_one, strict=True):
        torch.testing.assert_close(one.pred_instances.scores, other.pred_instances.scores)
        torch.testing.assert_close(one.pred_instances.bboxes, other.pred_instances.bboxes)


class MaskDetector(Detector):
    """Gives each object a mask, the left half of its box in the picture."""

    as_arrays = False

    def test_step(self, data):
        for sample in super().test_step(data):
            masks = np.zeros((2, 50, 100), bool)
            masks[:, 5 + sample.img_id : 20 + sample.img_id, 10 + sample.img_id : 20] = True
            masks[1] = False
            if sample.flip:
                masks = (
                    masks[..., ::-1] if sample.flip_direction == 'horizontal' else masks[:, ::-1]
                )
            masks = masks.copy()
            sample.pred_instances.masks = masks if self.as_arrays else encode_masks(masks)
        return data['data_samples']


@pytest.mark.parametrize('as_arrays', [False, True])
@pytest.mark.parametrize('direction', ['horizontal', 'vertical'])
def test_masks_follow_their_boxes(as_arrays, direction):
    detector = MaskDetector()
    detector.as_arrays = as_arrays
    model = PackedTTAModel(
        module=detector,
        tta_cfg=Config(dict(nms=dict(type='nms', iou_threshold=0.7), max_per_img=3)),
    )
    samples = views_of(2)
    for sample in (sample for view in samples for sample in view if sample.flip):
        sample.set_metainfo(dict(flip_direction=direction))
    found = model.test_step(dict(inputs=samples, data_samples=samples))
    for index, sample in enumerate(found):
        merged = sample.pred_instances
        assert merged.scores.tolist() == pytest.approx([0.9, 0.5])
        first, second = map(decode_mask, merged.masks)
        expected = np.zeros((50, 100), bool)
        expected[5 + index : 20 + index, 10 + index : 20] = True
        assert (first == expected).all() and not second.any()


def test_a_checkpoint_loads_into_the_detector_inside():
    model = PackedTTAModel(module=Detector())
    load_state_dict(inner_model(model), dict(weight=torch.ones(2)), 'a.pth')
    assert model.module.weight.tolist() == [1, 1]
