"""Every tool takes every detector: Faster R-CNN and Mask R-CNN, trained for a few steps."""

import json
import pickle
import pprint

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

import mmdet_dinov2

from ..families import family_cfg
from ..tools import run_tool, write_config


def write_detector(folder, name):
    """Writes a config of a family for the sample data."""
    model = family_cfg(name).to_dict()
    for head in ('bbox_head', 'mask_head'):
        if head in model['roi_head']:
            model['roi_head'][head]['num_classes'] = 5
    model['backbone']['img_size'] = 84
    model['test_cfg']['rcnn']['score_thr'] = 0.0
    return write_config(
        folder,
        f'model = dict(_delete_=True, **{pprint.pformat(model)})\n'
        'train_cfg = dict(max_epochs=1, val_interval=1)\n',
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a trained Faster R-CNN in ``work``, without its config."""
    folder = tmp_path_factory.mktemp('faster_rcnn')
    config = write_detector(folder, 'Faster R-CNN')
    run_tool('train', config, '--work-dir', folder / 'work')
    return folder


@pytest.fixture(scope='module')
def images(trained):
    return sorted((trained / 'shapes/val').iterdir())


def test_it_predicts_from_its_checkpoint_alone(trained, images, tmp_path):
    checkpoint = trained / 'work/epoch_1.pth'
    run_tool('predict', checkpoint, *images, '--out', tmp_path, '--score-thr', '0',
             '--batch-size', '2', '--device', 'cpu')  # fmt: skip
    results = json.loads((tmp_path / 'predictions.json').read_text())
    assert {r['image_id'] for r in results} == {1, 2, 3, 4}
    detector = mmdet_dinov2.load(checkpoint, device='cpu')
    assert detector.classes == ('circle', 'rectangle', 'triangle', 'star', 'cross')
    assert type(detector.model).__name__ == 'FasterRCNN'


def test_views_are_merged(trained, images):
    checkpoint = trained / 'work/epoch_1.pth'
    (plain,) = mmdet_dinov2.load(checkpoint, device='cpu').predict(images[0])
    detector = mmdet_dinov2.load(checkpoint, device='cpu', tta=True)
    (merged, _) = detector.predict(images[:2], batch_size=2)
    (alone,) = detector.predict(images[0])
    torch.testing.assert_close(merged.pred_instances.scores, alone.pred_instances.scores)
    torch.testing.assert_close(
        merged.pred_instances.bboxes, alone.pred_instances.bboxes, rtol=0, atol=1e-2
    )
    assert merged.ori_shape == plain.ori_shape == cv2.imread(str(images[0])).shape[:2]
    assert not torch.equal(merged.pred_instances.scores, plain.pred_instances.scores)


def test_views_of_a_test_and_of_predictions_are_the_same(trained, images, tmp_path):
    config, checkpoint = trained / 'tiny.py', trained / 'work/epoch_1.pth'
    run_tool('test', config, checkpoint, '--tta', '--out', tmp_path / 'a.pkl',
             '--work-dir', tmp_path / 'work')  # fmt: skip
    run_tool('predict', checkpoint, *images, '--tta', '--out', tmp_path / 'out',
             '--score-thr', '0', '--device', 'cpu', '--no-pictures')  # fmt: skip
    results = json.loads((tmp_path / 'out/predictions.json').read_text())
    tested = pickle.loads((tmp_path / 'a.pkl').read_bytes())
    for number, sample in enumerate(tested, 1):
        scores = [r['score'] for r in results if r['image_id'] == number]
        assert scores == pytest.approx(sample['pred_instances']['scores'].tolist(), abs=1e-5)


@pytest.mark.slow
def test_it_is_tested_and_reported(trained, images, tmp_path, capfd):
    config, work = trained / 'tiny.py', trained / 'work'
    run_tool('test', config, work / 'epoch_1.pth', '--work-dir', tmp_path / 'test')
    assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in capfd.readouterr().out
    run_tool('report', work, '--out', tmp_path / 'report.html')
    assert 'FasterRCNN' in (tmp_path / 'report.html').read_text()
    run_tool('show_features', config, images[0], '--checkpoint', work / 'epoch_1.pth',
             '--size', '84', '--out', tmp_path / 'features.png')  # fmt: skip
    assert cv2.imread(str(tmp_path / 'features.png')) is not None


@pytest.mark.slow
def test_it_is_measured(trained, tmp_path, capfd):
    run_tool('benchmark', trained / 'tiny.py', '--sizes', '60x84', '--repeats', '1', '--device',
             'cpu', '--batch-size', '1', '--work-dir', tmp_path)  # fmt: skip
    printed = capfd.readouterr().out
    assert 'failed' not in printed and 'training step' in printed
    assert 'images/s' in printed


def test_masks_are_predicted_too(tmp_path):
    config = write_detector(tmp_path, 'Mask R-CNN')
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'mask.pth')
    detector = mmdet_dinov2.load(tmp_path / 'mask.pth', config, device='cpu')
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    (sample,) = detector.predict(image, score_thr=0.1)
    found = sample.pred_instances
    assert len(found) and found.masks.shape == (len(found), 40, 60)
    assert detector.classes == ('class_0', 'class_1', 'class_2', 'class_3', 'class_4')
