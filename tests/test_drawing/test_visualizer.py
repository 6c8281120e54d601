"""mmdet's visualizer with the boxes of this project."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_dinov2.drawing.box_pictures import draw_detections

IMAGE = np.full((60, 90, 3), (10, 120, 240), np.uint8)  # RGB
TRUTH = InstanceData(bboxes=torch.tensor([[5.0, 20, 30, 50]]), labels=torch.tensor([1]))
FOUND = InstanceData(
    bboxes=torch.tensor([[40.0, 20, 80, 50], [4.0, 20, 30, 52]]),
    labels=torch.tensor([0, 1]),
    scores=torch.tensor([0.3, 0.8]),
)


@pytest.fixture
def visualizer(root):
    config = Config.fromfile(root / 'configs/_base_/default_runtime.py').visualizer
    config.vis_backends = None
    built = VISUALIZERS.build(config)
    built.dataset_meta = dict(classes=('a', 'b'))
    return built


def drawn(visualizer, tmp_path, **given):
    visualizer.add_datasample('x', IMAGE, out_file=str(tmp_path / 'x.png'), **given)
    return cv2.imread(str(tmp_path / 'x.png'))


def expected(instances):
    return draw_detections(np.ascontiguousarray(IMAGE[..., ::-1]), instances, ('a', 'b'))


def test_ground_truth_and_predictions_side_by_side(visualizer, tmp_path):
    picture = drawn(
        visualizer, tmp_path, data_sample=DetDataSample(gt_instances=TRUTH, pred_instances=FOUND)
    )
    caption = picture.shape[0] - 60
    assert picture.shape[1] == 180 and 12 < caption < 40
    for part in (picture[:caption, :90], picture[:caption, 90:]):
        assert part.max() == 255 and part.min() < 80  # letters on white
    assert (picture[caption:, :90] == expected(TRUTH)).all()
    assert (picture[caption:, 90:] == expected(FOUND[1:])).all()  # 0.3 is not above 0.3
    assert (visualizer.get_image() == picture[..., ::-1]).all()


@pytest.mark.parametrize('given', ['truth', 'found', 'draw_gt', 'nothing', 'none'])
def test_one_side_or_none_has_the_size_of_the_image(visualizer, tmp_path, given):
    sample = DetDataSample()
    options = {}
    if given in ('truth', 'draw_gt'):
        sample.gt_instances = TRUTH
    if given in ('found', 'draw_gt'):
        sample.pred_instances = FOUND
    if given == 'draw_gt':
        options = dict(draw_gt=False, pred_score_thr=0.1)
    picture = drawn(
        visualizer, tmp_path, data_sample=None if given == 'none' else sample, **options
    )
    wanted = dict(truth=TRUTH, found=FOUND[1:], draw_gt=FOUND).get(given, FOUND[:0])
    assert (picture == expected(wanted)).all()


def test_mmdets_boxes_and_data_without_class_names(visualizer, tmp_path):
    visualizer.dataset_meta = {}
    truth = InstanceData(bboxes=HorizontalBoxes(TRUTH.bboxes), labels=TRUTH.labels)
    picture = drawn(visualizer, tmp_path, data_sample=DetDataSample(gt_instances=truth))
    assert (picture == draw_detections(IMAGE[..., ::-1], TRUTH, ())).all()
    assert not (picture == expected(TRUTH)).all()  # 'class 1' instead of 'b'


def test_pictures_go_to_the_backends(visualizer, tmp_path):
    visualizer = VISUALIZERS.build(
        dict(
            type='BoxVisualizer', name='y', vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path),
        )
    )  # fmt: skip
    visualizer.add_datasample('shot', IMAGE, DetDataSample(pred_instances=FOUND), step=3)
    (path,) = tmp_path.rglob('shot_3.png')
    assert cv2.imread(str(path)).shape == IMAGE.shape


def test_settings_of_mmdets_visualizer_are_refused():
    with pytest.raises(TypeError, match='line_width'):
        VISUALIZERS.build(dict(type='BoxVisualizer', name='z', line_width=2))
