"""The config of the published detector: its pixels, and its checkpoint in the tools."""

import pickle

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from PIL import Image

from mmdet_dinov2.checkpoint import read_checkpoint, state_dict_of

from .published import tiny_published_cfg, tiny_state
from .tools import run_tool, write_config


@pytest.fixture(scope='module')
def pipeline(root):
    return Config.fromfile(root / 'configs/dino_dinov2_b_12ep_published.py').test_pipeline


def detectron2_size(height, width):
    """The shorter side becomes 800, unless the longer one would become more than 1333."""
    short, long = 800.0, 800 / min(height, width) * max(height, width)
    if long > 1333:
        short, long = short * 1333 / long, 1333.0
    short, long = int(short + 0.5), int(long + 0.5)
    return (short, long) if height < width else (long, short)


@pytest.mark.parametrize('size', [(480, 640), (640, 427), (375, 500), (333, 640), (612, 200)])
def test_images_are_decoded_and_resized_by_pillow(pipeline, tmp_path, size):
    height, width = size
    path = tmp_path / 'a.jpg'
    noise = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3), np.uint8)
    Image.fromarray(noise).resize((width, height)).save(path, quality=80)
    sample = dict(img_path=str(path), img_id=0, height=height, width=width, instances=[])
    packed = Compose(pipeline)(sample)
    new_height, new_width = detectron2_size(height, width)
    expected = Image.open(path).convert('RGB').resize((new_width, new_height), Image.BILINEAR)
    got = packed['inputs'].flip(0).permute(1, 2, 0).numpy()  # the model turns BGR to RGB
    assert np.array_equal(got, np.asarray(expected))
    assert packed['data_samples'].img_shape == (new_height, new_width)


def test_the_checkpoint_goes_through_the_tools(tmp_path):
    """As the file is published: tested, converted and tested, and the start of a training."""
    torch.manual_seed(0)
    checkpoint = tmp_path / 'model_final.pth'
    torch.save(dict(model=tiny_state(20, num_classes=5), iteration=90_000), checkpoint)
    model = dict(tiny_published_cfg(20, num_classes=5), _delete_=True)
    config = write_config(tmp_path, f'model = {model!r}\n')
    converted = tmp_path / 'converted.pth', tmp_path / 'converted.safetensors'
    for path in converted:
        run_tool('convert_weights', checkpoint, path)
    first, second = (state_dict_of(read_checkpoint(path), path) for path in converted)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    found = []
    for file in (checkpoint, converted[1]):
        out = tmp_path / f'{file.stem}.pkl'
        run_tool('test', config, file, '--work-dir', tmp_path / 'test', '--out', out)
        found.append(pickle.loads(out.read_bytes()))
    assert len(found[0]) == 4
    for image, other in zip(*found):
        boxes = image['pred_instances']['bboxes']
        assert boxes.std(0).min() > 0.5
        assert torch.equal(boxes, other['pred_instances']['bboxes'])
    run_tool(
        'train', config, '--work-dir', tmp_path / 'train', '--cfg-options',
        f'load_from={checkpoint}', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=5',
    )  # fmt: skip
    (log,) = (tmp_path / 'train').glob('*/*.log')
    text = log.read_text()
    assert 'Started from' in text and '0 adapted, 7 left out, 7 missing' in text
    assert 'the class names are not known on both sides' in text
