import pytest
import torch
from torch import nn

from mmdet_dinov2.checkpoint import load_state_dict
from mmdet_dinov2.errors import InputError


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
def test_another_model_is_refused_and_nothing_loaded(change, message):
    source, target = make_model(), make_model()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = source.state_dict()
    change(state)
    with pytest.raises(InputError, match=rf'a.pth is the checkpoint of another model.*{message}'):
        load_state_dict(target, state, 'a.pth')
    torch.testing.assert_close(dict(target.state_dict()), before, rtol=0, atol=0)
