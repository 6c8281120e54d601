"""What is published of a checkpoint: small, named by its hash, and enough to go on with."""

import hashlib
import re

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file, save_file

import mmdet_dinov2
from mmdet_dinov2.checkpoint import read_checkpoint
from mmdet_dinov2.checkpoint.publish import publish
from mmdet_dinov2.errors import InputError

from ..tools import failure_of, run_tool, write_config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a run with averaged weights in ``work``."""
    folder = tmp_path_factory.mktemp('run')
    ema = "custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.1)]\n"
    config = write_config(folder, 'train_cfg = dict(max_epochs=1, val_interval=5)\n' + ema)
    run_tool('train', config, '--work-dir', folder / 'work')
    return folder


@pytest.fixture(scope='module')
def image(trained):
    return sorted((trained / 'shapes/val').iterdir())[0]


def found_by(path, image):
    detector = mmdet_dinov2.load(path, device='cpu')
    (sample,) = detector.predict(image)
    return detector.classes, sample.pred_instances


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_it_predicts_and_starts_a_training(trained, image, tmp_path, suffix, capfd):
    source = trained / 'work/epoch_1.pth'
    run_tool('publish', source, '--out', tmp_path / f'new/detector{suffix}')
    (path,) = (tmp_path / 'new').iterdir()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'detector-{digest[:8]}{suffix}'
    assert path.stat().st_size < source.stat().st_size / 3
    printed = capfd.readouterr().out
    assert re.search(r'left out: message_hub, optimizer \(\d\.\d MiB\)', printed)
    assert 'ema_state_dict' in printed and 'meta.settings' in printed
    assert re.search(rf'written: {re.escape(str(path))} \(\d\.\d MiB of \d\.\d MiB\)', printed)

    classes, found = found_by(path, image)
    expected_classes, expected = found_by(source, image)
    assert classes == expected_classes and len(found) == len(expected) > 0
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.bboxes, expected.bboxes)

    run_tool('train', trained / 'tiny.py', '--work-dir', tmp_path / 'work',
             '--cfg-options', f'load_from={path}')  # fmt: skip
    printed = ''.join(capfd.readouterr())
    assert f'Started from {path}' in printed and ' 0 left out, 0 missing' in printed
    assert 'set load_from' in failure_of(
        capfd, 'train', trained / 'tiny.py', '--work-dir', tmp_path / 'b', '--resume', path
    )


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_file_of_the_name_that_is_given_stays(trained, tmp_path, suffix):
    source = tmp_path / 'detector.pth'
    source.write_bytes((trained / 'work/epoch_1.pth').read_bytes())
    target = tmp_path / f'detector{suffix}'
    if target != source:
        target.write_bytes(b'of somebody else')
    before = {path: path.read_bytes() for path in (source, target)}
    published = publish(source, target)
    assert {path: path.read_bytes() for path in (source, target)} == before
    assert {*tmp_path.iterdir()} == {source, target, published.path}


def test_pytorch_opens_it_and_mmengine_reads_its_config(trained, tmp_path):
    published = publish(trained / 'work/epoch_1.pth', tmp_path / 'a.pth')
    content = torch.load(published.path)
    assert set(content) == {'meta', 'state_dict'}
    assert set(content['meta']) == {'cfg', 'config_data', 'dataset_meta'}
    cfg = Config.fromstring(content['meta']['cfg'], '.py')
    assert cfg.model.type == 'PaddingAwareDINO'
    # What was published can be published again, in the other format.
    again = publish(published.path, tmp_path / 'a.safetensors')
    assert load_file(again.path).keys() == content['state_dict'].keys()
    assert again.left_out == {}


def test_tensors_that_share_memory(trained, tmp_path):
    content = read_checkpoint(trained / 'work/epoch_1.pth')
    name = next(iter(content['state_dict']))
    content['state_dict']['copy'] = content['state_dict'][name]
    torch.save(content, tmp_path / 'a.pth')
    published = publish(tmp_path / 'a.pth', tmp_path / 'b.safetensors')
    assert torch.equal(load_file(published.path)['copy'], content['state_dict'][name])


def test_what_cannot_be_published(trained, tmp_path):
    source = trained / 'work/epoch_1.pth'
    with pytest.raises(InputError, match='b.pt must end in .pth or .safetensors'):
        publish(source, tmp_path / 'b.pt')
    weights = tmp_path / 'weights.safetensors'
    save_file(dict(a=torch.zeros(2)), weights)
    with pytest.raises(InputError, match='does not carry its config'):
        publish(weights, tmp_path / 'b.pth')
    content = read_checkpoint(source)
    content['meta']['config_data']['model']['neck'] = dict(type='os.system')
    torch.save(content, tmp_path / 'evil.pth')
    with pytest.raises(InputError, match='not a part of a detector'):
        publish(tmp_path / 'evil.pth', tmp_path / 'b.pth')
    assert [path.name for path in tmp_path.glob('b*')] == []


def test_a_text_in_a_safetensors_file_is_not_run(tmp_path):
    path = tmp_path / 'evil.safetensors'
    text = f'open({str(tmp_path / "marker")!r}, "w")'
    save_file(dict(a=torch.zeros(2)), path, dict(cfg=text, classes='["a"]'))
    with pytest.raises(InputError, match='is not made of plain values'):
        mmdet_dinov2.load(path)
    assert not (tmp_path / 'marker').exists()
    save_file(dict(a=torch.zeros(2)), path, dict(cfg='a = 1', classes='["a"'))
    with pytest.raises(InputError, match='not a complete safetensors file'):
        mmdet_dinov2.load(path)
