import re

import pytest
import torch
from mmdet.registry import MODELS

from mmdet_dinov2.checkpoint.layouts import recognise
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.layers import resample_patch_kernel

from ..tiny import ARCH, tiny_backbone


@pytest.fixture
def weights(tmp_path):
    """Returns a file of a tiny model with the official names and a mask token."""
    model = tiny_backbone()
    path = tmp_path / 'tiny.pth'
    torch.save(dict(model.state_dict(), mask_token=torch.zeros(1, 32)), path)
    return path


def build(path, **options):
    model = MODELS.build(
        {
            'type': 'DINOv2',
            'arch': ARCH,
            'img_size': 56,
            'init_cfg': dict(type='Pretrained', checkpoint=str(path)),
            **options,
        }
    )
    model.init_weights()
    return model


def test_official_weights_load_exactly(weights):
    saved = torch.load(weights, weights_only=True)
    for name, tensor in build(weights).state_dict().items():
        assert torch.equal(tensor, saved[name]), name


def test_a_kernel_is_resampled_to_the_patch_size(weights):
    saved = torch.load(weights, weights_only=True)['patch_embed.proj.weight']
    model = build(weights, patch_size=16)
    expected = resample_patch_kernel(saved, 16)
    torch.testing.assert_close(model.patch_embed.proj.weight.data, expected)


def test_another_grid_is_interpolated(weights):
    saved = torch.load(weights, weights_only=True)['pos_embed']
    model = build(weights, img_size=84)
    assert model.pos_embed.shape == (1, 37, 32)
    torch.testing.assert_close(model.pos_embed.data[:, 0], saved[:, 0])


def test_the_report_says_what_was_done(weights, caplog):
    from mmdet_dinov2.checkpoint import load_backbone

    model = MODELS.build(dict(type='DINOv2', arch=ARCH, img_size=84, patch_size=16))
    report = str(load_backbone(model, weights, antialias=False, offset=0.1))
    total = len(model.state_dict())
    assert f'{total - 2} tensors loaded, 2 adapted, 1 left out, 0 missing' in report
    assert 'patch 14 -> 16' in report and '16 -> 36 positions' in report
    assert 'left out mask_token: used in pretraining only' in report and 'licence' not in report


def test_detectors_of_this_project_and_wrapped_models_are_recognised(weights):
    saved = torch.load(weights, weights_only=True)
    whole = {f'backbone.{name}': tensor for name, tensor in saved.items()}
    whole['neck.conv.weight'] = torch.zeros(1)
    assert recognise(whole)[1].keys() == recognise(saved)[1].keys()
    wrapped = {f'module.{name}': tensor for name, tensor in whole.items()}
    assert recognise(wrapped)[1].keys() == recognise(saved)[1].keys()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.update({'blocks.0.extra': torch.zeros(1)}), 'official.*blocks.0.extra'),
        (lambda s: s.update({'encoder.layer.0.norm1.weight': torch.zeros(1)}), 'encoder.layer.0'),
        (lambda s: s.pop('patch_embed.proj.weight'), 'not DINOv2 or DINOv3 weights in a known'),
        (lambda s: s.clear(), 'must hold tensors, but'),
    ],
)
def test_unknown_and_mixed_layouts_are_refused(weights, change, message):
    state = torch.load(weights, weights_only=True)
    change(state)
    torch.save(state, weights)
    with pytest.raises(InputError, match=message):
        build(weights)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_registers=4), 'has 0 register tokens: set num_registers=0'),
        (dict(arch=dict(ARCH, num_layers=5)), 'has 4 blocks instead of 5'),
        (dict(arch=dict(ARCH, embed_dims=64)), 'have 32 channels instead of 64'),
        (dict(arch=dict(ARCH, ffn='swiglu')), 'tensors missing .*w12'),
    ],
)
def test_weights_that_do_not_fit_stop_the_run(weights, options, message):
    with pytest.raises(InputError, match=message):
        build(weights, **options)


def test_a_part_of_the_weights_is_not_enough(weights):
    state = torch.load(weights, weights_only=True)
    del state['blocks.2.mlp.fc1.bias']
    torch.save(state, weights)
    with pytest.raises(InputError, match=r'1 tensors missing \(blocks.2.mlp.fc1.bias\)'):
        build(weights)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pth does not exist'):
        build(tmp_path / 'none.pth')


def test_offline_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    url = 'https://nothing.invalid/dinov2/dinov2_vitb14_pretrain.pth'
    with pytest.raises(FileNotFoundError) as caught:
        build(url)
    place = rf'put the file at {tmp_path}/checkpoints/\w+-dinov2_vitb14_pretrain.pth, '
    assert re.search(place, str(caught.value))
    for fact in (url, 'model.backbone.init_cfg=None'):
        assert fact in str(caught.value)


def test_where_to_get_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    def forbid(url, *args, **kwargs):
        raise OSError('HTTP Error 403: Forbidden')

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', forbid)
    with pytest.raises(FileNotFoundError, match='403.*fill in the form at https://ai.meta.com'):
        build('https://dl.fbaipublicfiles.com/dinov3/dinov3_vits16/dinov3_vits16.pth')


def test_downloads_from_hugging_face_are_kept_under_names_of_their_own(
    tmp_path, weights, monkeypatch
):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    weights.rename(tmp_path / 'checkpoints' / 'timm--vit_small--main--model.pth')
    build('https://huggingface.co/timm/vit_small/resolve/main/model.pth')
    with pytest.raises(FileNotFoundError, match='timm--vit_base--main--model.pth'):
        build('https://huggingface.invalid/timm/vit_base/resolve/main/model.pth')


def test_a_file_put_there_is_used(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    url = 'https://nothing.invalid/tiny.pth'
    with pytest.raises(FileNotFoundError) as caught:
        build(url)
    weights.rename(re.search(r'put the file at (\S+),', str(caught.value))[1])
    build(url)
