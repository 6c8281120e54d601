"""Pictures of an evaluation: which images they show, how they are turned, their names."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer

from mmdet_dinov2.data import CheckedLoadImageFromFile
from mmdet_dinov2.drawing import BoxVisualizer
from mmdet_dinov2.engine.hooks import ReadableVisualizationHook
from mmdet_dinov2.sample_meta import BAD_IMAGES

from ..test_data.images import jpeg
from ..test_data.test_loading import black_corner


@pytest.fixture
def visualizer():
    built = BoxVisualizer.get_instance('visualization hook')
    built.dataset_meta = dict(classes=('a',))
    yield built
    BoxVisualizer._instance_dict.clear()
    Visualizer._instance_dict.clear()


def sample(path, **meta):
    """Returns what a detector predicts for an image without detections."""
    shape = CheckedLoadImageFromFile()(dict(img_path=str(path), **meta))['ori_shape']
    found = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=int), scores=torch.zeros(0)
    )
    return DetDataSample(metainfo=dict(img_path=str(path), ori_shape=shape), pred_instances=found)


def run(visualizer, work_dir, step=0):
    """What the hook needs of a runner."""
    return SimpleNamespace(
        visualizer=visualizer, work_dir=str(work_dir), timestamp='now', iter=step
    )


@pytest.mark.parametrize('annotated', [(40, 30), (30, 40)])
def test_pictures_are_turned_as_the_dataset_turns_them(visualizer, tmp_path, annotated):
    path = tmp_path / 'a.jpg'
    path.write_bytes(jpeg(40, 30, orientation=6))
    loaded = sample(path, width=annotated[0], height=annotated[1])
    hook = ReadableVisualizationHook(draw=True, test_out_dir='pictures')
    runner = run(visualizer, tmp_path)
    hook.after_test_iter(runner, 0, {}, [loaded])
    picture = cv2.imread(str(tmp_path / 'now/pictures/a.jpg'))
    assert picture.shape == (*annotated[::-1], 3)
    assert black_corner(picture) == ((0, 0) if annotated == (40, 30) else (0, 1))


def test_equal_names_and_images_that_cannot_be_read(visualizer, tmp_path):
    samples = []
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'a.jpg').write_bytes(jpeg())
        samples.append(sample(tmp_path / folder / 'a.jpg'))
    bad = DetDataSample(metainfo={'img_path': str(tmp_path / 'none.jpg'), BAD_IMAGES: [('x', 'y')]})
    hook = ReadableVisualizationHook(draw=True, test_out_dir='pictures')
    runner = run(visualizer, tmp_path)
    hook.after_test_iter(runner, 0, {}, [samples[0], bad])
    hook.after_test_iter(runner, 1, {}, [samples[1]])
    written = {path.name for path in (tmp_path / 'now/pictures').iterdir()}
    assert written == {'a.jpg', 'a_2.jpg'}


def test_one_image_of_a_validation_batch_now_and_then(visualizer, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        visualizer, 'add_datasample', lambda name, image, **options: drawn.append((name, options))
    )
    (tmp_path / 'a.jpg').write_bytes(jpeg())
    readable = sample(tmp_path / 'a.jpg')
    bad = DetDataSample(metainfo={'img_path': 'none.jpg', BAD_IMAGES: [('x', 'y')]})
    runner = run(visualizer, tmp_path, step=10)
    for draw in (False, True):
        hook = ReadableVisualizationHook(draw=draw, interval=5)
        for batch in range(6):
            hook.after_val_iter(runner, batch, {}, [bad, readable])
        hook.after_val_iter(runner, 0, {}, [bad])
    assert [(name, options['step']) for name, options in drawn] == [
        ('val_img', 10),
        ('val_img', 15),
    ]
    assert all(options['out_file'] is None for _, options in drawn)


def test_colours_reach_the_visualizer_as_rgb(visualizer, tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.full((20, 30, 3), (250, 10, 90), np.uint8))
    hook = ReadableVisualizationHook(draw=True, test_out_dir='pictures')
    runner = run(visualizer, tmp_path)
    hook.after_test_iter(runner, 0, {}, [sample(path)])
    assert (cv2.imread(str(tmp_path / 'now/pictures/a.png')) == (250, 10, 90)).all()
