"""Detectors of mmdet on this backbone: a step of training, a prediction, no padding in features."""

import pytest
import torch

from ..families import FAMILIES, MASKS, batch_of, build_family
from ..tiny import NUM_CLASSES, total_loss

SIZES = (70, 100), (150, 61)


@pytest.fixture(scope='module', params=FAMILIES, ids=lambda name: name.replace(' ', '_'))
def family(request):
    """A name and a detector."""
    torch.manual_seed(0)
    return request.param, build_family(request.param)


def test_a_step_of_training(family):
    name, model = family
    model.train()
    data = model.data_preprocessor(batch_of(name, *SIZES), True)
    loss = total_loss(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    model.zero_grad()
    loss.backward()
    for part in (model.backbone, model.neck):
        grads = [p.grad for p in part.parameters() if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert sum(grad.abs().sum() for grad in grads) > 0


@torch.no_grad()
def test_a_prediction(family):
    name, model = family
    model.eval()
    for sample, (height, width) in zip(model.test_step(batch_of(name, *SIZES)), SIZES):
        found = sample.pred_instances
        assert torch.isfinite(found.bboxes).all() and torch.isfinite(found.scores).all()
        assert set(found.labels.tolist()) <= set(range(NUM_CLASSES))
        assert (found.bboxes >= 0).all()
        assert (found.bboxes <= torch.tensor([width, height, width, height])).all()
        if name in MASKS:
            assert found.masks.shape == (len(found), height, width)


@torch.no_grad()
def test_features_do_not_depend_on_batch_mates(family):
    name, model = family
    model.eval()
    data = batch_of(name, *SIZES)
    together = model.data_preprocessor(data)['inputs']
    alone = model.data_preprocessor({key: values[:1] for key, values in data.items()})['inputs']
    assert together.shape[-2:] != alone.shape[-2:]
    for both, one in zip(model.extract_feat(together), model.extract_feat(alone), strict=True):
        rows, cols = one.shape[-2:]
        torch.testing.assert_close(both[:1, :, :rows, :cols], one, rtol=1e-4, atol=1e-5)
        assert not both[:1, :, rows:].any() and not both[:1, :, :, cols:].any()
