"""mmdet's own tools and other packages on a tiny trained model, and on a Faster R-CNN."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch

from .tools import ROOT, run_script, run_tool, write_config

pytestmark = pytest.mark.slow

# Distributions of mmdet made with its `setup.py` hold the tools; a checkout has them in `tools/`.
TOOLS = Path(mmdet.__file__).parent / '.mim/tools'
PAGE = ROOT / 'docs/ecosystem.md'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a trained model in ``work``."""
    folder = tmp_path_factory.mktemp('ecosystem')
    run_tool('train', write_config(folder), '--work-dir', folder / 'work')
    return folder


@pytest.fixture(scope='module')
def images(trained):
    return [str(path) for path in sorted((trained / 'shapes/val').iterdir())]


def run(folder, script, *args):
    """Runs a tool of mmdet as a user does, and returns what it printed."""
    path = TOOLS / f'{script}.py'
    if not path.is_file():
        pytest.skip(f'this mmdet does not hold its tools: {path} is missing')
    env = dict(os.environ, PYTHONPATH=str(ROOT), MPLBACKEND='Agg', OMP_NUM_THREADS='1')
    result = run_script(sys.executable, path, *args, cwd=folder, env=env)
    printed = result.stdout + result.stderr
    assert result.returncode == 0, printed[-3000:]
    return printed


def ap_of(printed):
    """Returns the AP that a test printed last."""
    return float(re.findall(r'coco/bbox_mAP: (-?[\d.]+)', printed)[-1])


def test_train(trained):
    options = ('--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
    printed = run(trained, 'train', 'tiny.py', '--work-dir', 'mmdet_train', *options)
    assert 'Epoch(val) [1]' in printed
    assert (trained / 'mmdet_train/epoch_1.pth').is_file()


@pytest.fixture(scope='module')
def tested(trained):
    """What mmdet's test printed; its predictions are in ``predictions.pkl``."""
    return run(trained, 'test', 'tiny.py', 'work/epoch_2.pth', '--work-dir', 'mmdet_test',
               '--out', 'predictions.pkl', '--show-dir', 'drawn')  # fmt: skip


def test_test_and_what_reads_its_predictions(trained, tested):
    assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in tested
    assert len(list((trained / 'mmdet_test').glob('*/drawn/*'))) == 4
    option = 'val_evaluator.ann_file=shapes/annotations/val.json'
    printed = run(trained, 'analysis_tools/eval_metric', 'tiny.py', 'predictions.pkl',
                  '--cfg-options', option)  # fmt: skip
    (again,) = re.findall(r"'coco/bbox_mAP': (?:np\.float64\()?(-?[\d.]+)", printed)
    assert float(again) == pytest.approx(ap_of(tested), abs=1e-4)
    run(trained, 'analysis_tools/confusion_matrix', 'tiny.py', 'predictions.pkl', 'confusion')
    assert (trained / 'confusion/confusion_matrix.png').is_file()
    run(trained, 'analysis_tools/analyze_results', 'tiny.py', 'predictions.pkl', 'results',
        '--topk', '2')  # fmt: skip
    assert len(list((trained / 'results').rglob('*.jpg'))) == 4


def test_views(trained, tested):
    printed = run(
        trained, 'test', 'tiny.py', 'work/epoch_2.pth', '--work-dir', 'mmdet_tta', '--tta'
    )
    assert 'different model' not in printed and ap_of(printed) >= 0


def test_browse_dataset(trained):
    run(trained, 'analysis_tools/browse_dataset', 'tiny.py', '--output-dir', 'browsed',
        '--not-show')  # fmt: skip
    assert len(list((trained / 'browsed').rglob('*.jpg'))) == 8


def test_get_flops(trained):
    printed = run(trained, 'analysis_tools/get_flops', 'tiny.py', '--num-images', '1')
    assert re.search(r'Flops: [\d.]+M', printed) and 'Params: 54.754K' in printed


def test_publish_model(trained, tmp_path):
    run(trained, 'model_converters/publish_model', 'work/epoch_2.pth', tmp_path / 'a.pth')
    (path,) = tmp_path.glob('a-*.pth')
    assert set(torch.load(path)) == {'meta', 'state_dict'}


@pytest.mark.parametrize('with_config', [True, False])
def test_det_inferencer(trained, images, with_config, tmp_path):
    from mmdet.apis import DetInferencer

    weights = str(trained / 'work/epoch_2.pth')
    model = dict(model=str(trained / 'tiny.py')) if with_config else {}
    inferencer = DetInferencer(weights=weights, device='cpu', show_progress=False, **model)
    found = inferencer(images[:2], batch_size=2, out_dir=str(tmp_path))['predictions']
    expected = predictions_of(trained, images[:2])
    for one, sample in zip(found, expected, strict=True):
        assert one['scores'] == pytest.approx(sample.pred_instances.scores.tolist(), abs=1e-4)
    assert len(list((tmp_path / 'vis').iterdir())) == 2


def predictions_of(trained, images):
    import mmdet_dinov2

    return mmdet_dinov2.load(trained / 'work/epoch_2.pth', device='cpu').predict(images)


def mmdet_model(trained):
    from mmdet.apis import init_detector

    return init_detector(str(trained / 'tiny.py'), str(trained / 'work/epoch_2.pth'), device='cpu')


def test_inference_detector(trained, images):
    from mmdet.apis import inference_detector

    model = mmdet_model(trained)
    (expected,) = predictions_of(trained, images[0])
    found = inference_detector(model, images[0])
    torch.testing.assert_close(found.pred_instances.scores, expected.pred_instances.scores)
    array = np.zeros((50, 60, 3), np.uint8)
    assert inference_detector(model, array).ori_shape == (50, 60)


def needs(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install {package}')


def test_sahi(trained, images):
    needs('sahi')
    from sahi import AutoDetectionModel
    from sahi.predict import get_prediction, get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        model_type='mmdet',
        model_path=str(trained / 'work/epoch_2.pth'),
        config_path=str(trained / 'tiny.py'),
        device='cpu',
        confidence_threshold=0.01,
    )
    (expected,) = predictions_of(trained, images[0])
    whole = get_prediction(images[0], model).object_prediction_list
    best = max(prediction.score.value for prediction in whole)
    assert best == pytest.approx(expected.pred_instances.scores[0].item(), abs=1e-4)
    sliced = get_sliced_prediction(
        images[0], model, slice_height=100, slice_width=100, verbose=0
    ).object_prediction_list
    assert {p.category.name for p in sliced} <= {'circle', 'rectangle', 'triangle', 'star', 'cross'}
    assert sliced


def test_supervision(trained, images):
    needs('supervision')
    import supervision
    from mmdet.apis import inference_detector

    sample = inference_detector(mmdet_model(trained), images[0])
    found = supervision.Detections.from_mmdetection(sample)
    assert len(found) == len(sample.pred_instances)
    assert np.allclose(found.xyxy, sample.pred_instances.bboxes.numpy())


def test_the_page_names_what_is_tested_here():
    """Every tool of the table that works is run by a test of this file."""
    rows = [line.split('|')[1:-1] for line in PAGE.read_text().splitlines() if line[:1] == '|']
    works = [row[0].strip(' `') for row in rows if row[1].strip() == 'yes']
    assert len(works) >= 12
    text = Path(__file__).read_text()
    for name in works:
        word = name.split()[0].split('.')[0]
        assert word in text, name
