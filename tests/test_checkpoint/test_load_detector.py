"""Loading whole detectors: exactly, or as the start of a training with different classes."""

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from mmdet_dinov2.checkpoint import (
    check_classes,
    checkpoint_classes,
    load_for_fine_tuning,
    load_state_dict,
)
from mmdet_dinov2.errors import InputError

from ..tiny import detector_cfg, tiny_backbone, tiny_detector


def make_model(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def test_loads_parameters_and_buffers_also_of_a_wrapped_model():
    source, target = make_model(), make_model()
    source[1].running_mean += 5
    state = {f'module.{name}': tensor for name, tensor in source.state_dict().items()}
    load_state_dict(target, state, 'a.pth')
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('0.weight'), r'1 missing \(0.weight\)'),
        (lambda s: s.update(x=torch.zeros(1)), r'1 unknown \(x\)'),
        (lambda s: s.update({'0.bias': torch.zeros(9)}), r'0.bias \(9,\) instead of \(3,\)'),
    ],
)
def test_a_different_model_is_refused_and_nothing_is_loaded(change, message):
    source, target = make_model(), make_model()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = source.state_dict()
    change(state)
    with pytest.raises(InputError, match=rf'is the checkpoint of a different model.*{message}'):
        load_state_dict(target, state, 'a.pth')
    torch.testing.assert_close(dict(target.state_dict()), before, rtol=0, atol=0)


@pytest.fixture(scope='module')
def other_detector():
    """Returns the state of a trained detector with the classes a, b, c."""
    torch.manual_seed(5)
    return tiny_detector().state_dict()


def fine_tune(state, classes, known, num_classes=None, init_cfg=None, **options):
    cfg = detector_cfg(**options)
    cfg['bbox_head']['num_classes'] = num_classes or len(classes)
    model = MODELS.build(cfg)
    model.init_weights()
    model.backbone.init_cfg = init_cfg
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return model, before, load_for_fine_tuning(model, state, 'a.pth', classes, known)


def test_rows_follow_the_class_names(other_detector):
    model, before, report = fine_tune(other_detector, ('c', 'new', 'a', 'b'), ('a', 'b', 'c'))
    for name in ('bbox_head.cls_branches.1.weight', 'dn_query_generator.label_embedding.weight'):
        rows, source = model.state_dict()[name], other_detector[name]
        assert torch.equal(rows[0], source[2])
        assert torch.equal(rows[2], source[0]) and torch.equal(rows[3], source[1])
        assert torch.equal(rows[1], before[name][1])
        assert 'rows of 3 classes by name, new newly initialised' in report.adapted[name]
    assert report.missing == []


def test_the_same_classes_load_as_they_are(other_detector):
    model, _, report = fine_tune(other_detector, ('a', 'b', 'c'), ('a', 'b', 'c'))
    torch.testing.assert_close(dict(model.state_dict()), dict(other_detector), rtol=0, atol=0)
    assert not report.adapted and not report.left_out


def test_without_names_classes_start_afresh(other_detector):
    model, before, report = fine_tune(other_detector, ('a', 'b', 'c'), None)
    name = 'bbox_head.cls_branches.0.weight'
    assert torch.equal(model.state_dict()[name], before[name])
    assert 'the class names are not known on both sides' in str(report)
    name = 'bbox_head.reg_branches.0.0.weight'
    assert torch.equal(model.state_dict()[name], other_detector[name])


def test_another_number_of_queries_keeps_the_new_ones(other_detector):
    model, before, report = fine_tune(
        other_detector, ('a', 'b', 'c'), ('a', 'b', 'c'), num_queries=9
    )
    assert torch.equal(
        model.state_dict()['query_embedding.weight'], before['query_embedding.weight']
    )
    assert report.left_out == {'query_embedding.weight': 'of a different shape'}


def test_a_detector_of_mmdet_initialises_all_but_the_backbone(other_detector):
    """Published DINO checkpoints have a ResNet under 'backbone.' and a different neck."""
    state = {n: t for n, t in other_detector.items() if not n.startswith(('backbone.', 'neck.'))}
    state['backbone.layer1.0.conv1.weight'] = torch.zeros(4, 4, 1, 1)
    state['neck.convs.0.conv.weight'] = torch.zeros(4, 4, 1, 1)
    classes = ('a', 'b', 'c')
    with pytest.raises(InputError, match='has no weights of its own: name them in'):
        fine_tune(state, classes, classes)
    init_cfg = dict(type='Pretrained', checkpoint='dinov2.pth')
    model, before, report = fine_tune(state, classes, classes, init_cfg=init_cfg)
    for name, tensor in model.state_dict().items():
        kept = name.startswith(('backbone.', 'neck.'))
        assert torch.equal(tensor, before[name] if kept else other_detector[name]), name
    assert 'backbone.layer1.0.conv1.weight' in report.left_out


def test_stock_mmdet_dino_fits_behind_the_backbone(other_detector):
    """Encoder, decoder and head have the names and shapes that mmdet publishes."""
    published = {
        'decoder.ref_point_head.layers.0.weight': (32, 64),
        'memory_trans_fc.weight': (32, 32),
        'encoder.layers.0.self_attn.sampling_offsets.weight': (256, 32),
        'bbox_head.cls_branches.2.bias': (3,),
        'level_embed': (4, 32),
    }
    for name, shape in published.items():
        assert tuple(other_detector[name].shape) == shape


def test_half_a_backbone_is_refused(other_detector):
    state = dict(other_detector)
    del state['backbone.blocks.1.attn.qkv.weight']
    with pytest.raises(
        InputError, match=r'tensors of the backbone fit a.pth \(not backbone.blocks.1'
    ):
        fine_tune(state, ('a', 'b', 'c'), None)


def test_a_backbone_of_a_different_size_is_refused(other_detector):
    state = {
        name: torch.zeros(*tensor.shape, 2) if name.startswith('backbone.') else tensor
        for name, tensor in other_detector.items()
    }
    with pytest.raises(InputError, match='only 0 of the .* tensors of the backbone fit a.pth'):
        fine_tune(state, ('a', 'b', 'c'), None, init_cfg=dict(type='Pretrained', checkpoint='x'))


def test_a_plain_backbone_is_refused_as_a_detector():
    with pytest.raises(InputError, match='holds only a backbone.*init_cfg'):
        fine_tune(tiny_backbone().state_dict(), ('a', 'b', 'c'), None)


def test_something_else_is_refused():
    with pytest.raises(InputError, match='nothing of a.pth fits'):
        fine_tune({'fc.weight': torch.zeros(2)}, ('a', 'b', 'c'), None)


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        (dict(dataset_meta=dict(classes=('a', 'b'))), ('a', 'b')),
        (dict(dataset_meta=dict(CLASSES=['a'])), ('a',)),
        (dict(CLASSES='a'), ('a',)),
        ({}, None),
        (None, None),
    ],
)
def test_classes_of_a_checkpoint(meta, expected):
    assert checkpoint_classes(dict(meta=meta)) == expected


def test_classes_that_contradict_are_refused():
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('a', 'b'))))
    check_classes(checkpoint, ('a', 'b'), 'x.pth')
    check_classes({}, ('a', 'b'), 'x.pth')
    with pytest.raises(InputError, match='in a different order'):
        check_classes(checkpoint, ('b', 'a'), 'x.pth')
    with pytest.raises(
        InputError, match=r"only in the checkpoint: \['b'\]; only in the data: \['z'\]"
    ):
        check_classes(checkpoint, ('a', 'z'), 'x.pth')
