"""Predictions with a checkpoint alone, on the command line and in Python."""

import csv
import json
import os
import re
import shutil
from collections import defaultdict

import cv2
import mmengine
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

import mmdet_dinov2
from mmdet_dinov2.checkpoint.embedded_config import CONFIG_KEY
from mmdet_dinov2.data.shapes_scenes import Scene, draw_scene
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference.detector import Detector
from mmdet_dinov2.inference.image_inputs import expand_inputs

from ..test_data.images import BROKEN, jpeg, picture, tiff
from ..tools import failure_of, run_tool, write_config

CLASSES = ('circle', 'rectangle', 'triangle', 'star', 'cross')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished run: its folder, and the checkpoint in its work folder."""
    folder = tmp_path_factory.mktemp('run')
    config = write_config(folder, 'train_cfg = dict(max_epochs=1, val_interval=5)\n')
    run_tool('train', config, '--work-dir', folder / 'work')
    return folder, folder / 'work/epoch_1.pth'


@pytest.fixture(scope='module')
def detector(trained):
    return mmdet_dinov2.load(trained[1], device='cpu')


@pytest.fixture(scope='module')
def images():
    """Images of noise in different sizes, BGR."""
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (120, 40), (84, 84), (30, 200)]
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def predict(capfd, *args, code=None):
    """Runs the tool and returns what it printed to standard error."""
    capfd.readouterr()
    if code is None:
        run_tool('predict', *args, '--device', 'cpu')
    else:
        with pytest.raises(SystemExit) as caught:
            run_tool('predict', *args, '--device', 'cpu')
        assert caught.value.code == code
    return capfd.readouterr().err


def assert_same(samples, others):
    assert len(samples) == len(others) > 0
    for one, other in zip(samples, others, strict=True):
        first, second = one.pred_instances, other.pred_instances
        assert len(first) == len(second) > 0
        assert torch.allclose(first.scores, second.scores, atol=1e-5)
        assert torch.equal(first.labels, second.labels)
        assert torch.allclose(first.bboxes, second.bboxes, atol=1e-2)


def test_a_checkpoint_alone_predicts(detector, images):
    assert detector.classes == CLASSES
    (sample,) = detector.predict(images[0])
    found = sample.pred_instances
    assert len(found) > 0 and found.bboxes.shape == (len(found), 4)
    assert (found.scores.diff() <= 0).all() and sample.ori_shape == (60, 90)
    assert (found.bboxes[:, 2] <= 90).all() and (found.bboxes[:, 3] <= 60).all()
    threshold = float(found.scores[3])
    (fewer,) = detector.predict(images[0], score_thr=threshold)
    assert len(fewer.pred_instances) == int((found.scores >= threshold).sum())


def test_predictions_do_not_depend_on_the_batch(detector, images):
    assert_same(detector.predict(images, batch_size=3), detector.predict(images))


def test_paths_and_arrays_in_both_orders_of_channels(detector, images, tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), images[0])
    expected = detector.predict(images[0])
    assert_same(detector.predict(path), expected)
    assert_same(detector.predict([str(path)]), expected)
    assert_same(detector.predict(images[0][..., ::-1], channel_order='rgb'), expected)


@pytest.mark.parametrize(
    ('image', 'options', 'error', 'message'),
    [
        (np.zeros((4, 5, 3)), {}, InputError, 'float64'),
        (np.zeros((0, 5, 3), np.uint8), {}, InputError, r'shape \(0, 5, 3\)'),
        ('none.jpg', {}, FileNotFoundError, 'none.jpg does not exist'),
        ('none.jpg', dict(batch_size=0), InputError, 'batch_size must be at least 1'),
        ('none.jpg', dict(score_thr=30), InputError, 'score_thr must be between 0 and 1'),
        ('none.jpg', dict(channel_order='gbr'), InputError, "'bgr' or 'rgb', but is 'gbr'"),
    ],
)
def test_images_that_cannot_be_used(detector, image, options, error, message):
    with pytest.raises(error, match=message):
        detector.predict(image, **options)


def test_a_config_beside_the_checkpoint(trained, detector, images):
    folder, checkpoint = trained
    with_config = mmdet_dinov2.load(checkpoint, folder / 'work/tiny.py', device='cpu')
    assert_same(with_config.predict(images[0]), detector.predict(images[0]))


def test_results_of_the_tool(trained, detector, tmp_path, capfd):
    folder, checkpoint = trained
    out = tmp_path / 'out'
    (tmp_path / 'more').mkdir()
    picture = sorted((folder / 'shapes/val').iterdir())[0]
    for name in ('a.jpg', 'more/a.jpg', 'more/b.xyz', 'more/notes.txt'):
        shutil.copy(picture, tmp_path / name)
    printed = predict(
        capfd, checkpoint, tmp_path / 'more', str(tmp_path / '*.jpg'), '--out', out,
        '--score-thr', '0.01', '--batch-size', '2',
    )  # fmt: skip
    assert f'2 images predicted: {out}' in printed
    (sample,) = detector.predict(picture, score_thr=0.01)
    found = sample.pred_instances
    coco = COCO(out / 'images.json').loadRes(str(out / 'predictions.json'))
    assert [image['file_name'] for image in coco.dataset['images']] == ['a.jpg', 'a_2.jpg']
    assert [category['name'] for category in coco.dataset['categories']] == list(CLASSES)
    for image_id in (1, 2):
        results = coco.imgToAnns[image_id]
        assert [r['score'] for r in results] == pytest.approx(found.scores.tolist(), abs=1e-5)
        assert [r['category_id'] for r in results] == (found.labels + 1).tolist()
        sides = [[x, y, x + w, y + h] for x, y, w, h in (r['bbox'] for r in results)]
        assert np.allclose(sides, found.bboxes, atol=1e-2)
    rows = list(csv.DictReader((out / 'predictions.csv').open()))
    assert len(rows) == 2 * len(found) > 0
    assert rows[0]['image'] == 'a.jpg' and rows[0]['class'] == CLASSES[found.labels[0]]
    assert float(rows[0]['x2']) == pytest.approx(float(found.bboxes[0, 2]), abs=2e-2)
    drawn = cv2.imread(str(out / 'pictures/a_2.jpg'))
    assert drawn.shape == cv2.imread(str(picture)).shape
    assert sorted(path.name for path in (out / 'pictures').iterdir()) == ['a.jpg', 'a_2.jpg']


def test_detections_as_annotations_to_correct(trained, tmp_path, capfd):
    folder, checkpoint = trained
    photos = folder / 'shapes/val'
    out = tmp_path / 'out'
    options = ('--out', out, '--no-pictures', '--as-annotations', '--score-thr', 0.0)
    err = predict(capfd, checkpoint, photos, folder / 'shapes/train/000001.jpg', *options)
    assert f'annotations to correct: {out}/predicted.json' in err
    content = json.loads((out / 'predicted.json').read_text())
    assert content['info']['folder'] == str(folder / 'shapes')
    names = [image['file_name'] for image in content['images']]
    assert sorted(names) == ['train/000001.jpg', *(f'val/00000{i}.jpg' for i in range(1, 5))]
    results = json.loads((out / 'predictions.json').read_text())
    entries = content['annotations']
    results_of = defaultdict(list)
    for result in results:
        results_of[result['image_id']].append(result)
    assert 0 < len(entries) < len(results)
    for entry in entries:
        assert entry['predicted'] is True and entry['iscrowd'] == 0
        assert any(entry.items() >= result.items() for result in results_of[entry['image_id']])
    # Every detection that was left out overlaps a better one that was kept.
    for image, found in results_of.items():
        kept = [entry for entry in entries if entry['image_id'] == image]
        boxes = [entry['bbox'] for entry in kept]
        overlaps = mask.iou([result['bbox'] for result in found], boxes, [0] * len(boxes))
        for result, row in zip(found, overlaps, strict=True):
            same = [entry for entry, iou in zip(kept, row, strict=True) if iou > 0.7]
            assert any(entry['score'] >= result['score'] for entry in same)
        assert (mask.iou(boxes, boxes, [0] * len(boxes)) > 0.7).sum() == len(boxes)
    assert len(COCO(str(out / 'predicted.json')).anns) == len(entries)
    # It may have been corrected: it is not replaced, and nothing is predicted.
    before = (out / 'predicted.json').read_bytes()
    error = failure_of(capfd, 'predict', checkpoint, photos, *options)
    assert 'predicted.json exists and may have been corrected since' in error
    assert (out / 'predicted.json').read_bytes() == before
    video, other = tmp_path / 'a.mp4', tmp_path / 'other'
    video.touch()
    error = failure_of(capfd, 'predict', checkpoint, video, '--as-annotations', '--out', other)
    assert '--as-annotations writes annotations of photos' in error


def test_ids_of_an_annotation_file(trained, tmp_path, capfd):
    folder, checkpoint = trained
    ann = folder / 'shapes/annotations/val.json'
    content = json.loads(ann.read_text())
    for image in content['images']:
        image['id'] += 70
    content['categories'] = content['categories'][::-1]
    content['annotations'] = []
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    arguments = ('--ann', tmp_path / 'ann.json', '--out', tmp_path / 'out', '--no-pictures')
    predict(capfd, checkpoint, folder / 'shapes/val', *arguments, '--score-thr', '0')
    coco = COCO(tmp_path / 'ann.json').loadRes(str(tmp_path / 'out/predictions.json'))
    assert sorted(coco.imgToAnns) == [image['id'] for image in content['images']]
    assert not (tmp_path / 'out/pictures').exists()
    error = failure_of(capfd, 'predict', checkpoint, folder / 'shapes/train', *arguments)
    assert 'the annotation file does not list' in error


def test_a_video_is_predicted_frame_by_frame(trained, images, tmp_path, capfd):
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (90, 60))
    for shift in range(5):
        writer.write(np.roll(images[0], shift, 1))
    writer.release()
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    out = tmp_path / 'out'
    printed = predict(
        capfd, trained[1], path, tmp_path / 'broken.mp4', '--out', out, '--score-thr', '0', code=3
    )
    assert '5 images predicted' in printed and 'broken.mp4 is not a valid video' in printed
    assert re.search(r'clip.avi: 5 frames, [\d.]+ frames per second', printed)
    names = [
        image['file_name'] for image in json.loads((out / 'images.json').read_text())['images']
    ]
    assert names == [f'clip.avi/{index:06d}' for index in range(5)]
    drawn = cv2.VideoCapture(str(out / 'pictures/clip.avi.mp4'))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and drawn.get(cv2.CAP_PROP_FPS) == 10
    assert drawn.read()[1].shape == (60, 90, 3)


def test_72_photos_with_a_broken_one(trained, shared, tmp_path, capfd):
    annotations = shared / 'data/bccd/annotations/test.json'
    names = [image['file_name'] for image in json.loads(annotations.read_text())['images']]
    photos = tmp_path / 'photos'
    photos.mkdir()
    for name in names:
        shutil.copy(shared / 'data/bccd/images' / name, photos)
    broken = photos / names[5]
    broken.write_bytes(broken.read_bytes()[:9000])
    out = tmp_path / 'out'
    printed = predict(
        capfd, trained[1], photos, '--out', out, '--batch-size', '8', '--score-thr', '0', code=3
    )
    assert '71 images predicted' in printed and 'error: 1 of 72 inputs' in printed
    assert re.search(rf'not read: {broken} is not a valid image \(the file is cut off\)', printed)
    results = COCO(out / 'images.json').loadRes(str(out / 'predictions.json'))
    assert len(results.imgToAnns) == len(list((out / 'pictures').iterdir())) == 71


@pytest.mark.parametrize('video', [False, True])
def test_an_interrupted_prediction_keeps_its_results(
    trained, images, tmp_path, capfd, monkeypatch, video
):
    predict_each = Detector.predict_each

    def interrupt(self, *args, **kwargs):
        predictions = predict_each(self, *args, **kwargs)
        yield next(predictions)
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, 'predict_each', interrupt)
    source = tmp_path / ('clip.avi' if video else 'photos')
    if video:
        writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*'MJPG'), 10, (90, 60))
        for _ in range(3):
            writer.write(images[0])
        writer.release()
    else:
        source.mkdir()
        for name in ('a.png', 'b.png'):
            cv2.imwrite(str(source / name), images[0])
    out = tmp_path / 'out'
    printed = predict(capfd, trained[1], source, '--out', out, code=130)
    assert '1 images predicted' in printed and 'error: interrupted; what was' in printed
    assert len(json.loads((out / 'images.json').read_text())['images']) == 1
    assert (out / 'predictions.csv').is_file() and len(list((out / 'pictures').iterdir())) == 1


def test_odd_pictures_beside_sound_ones(trained, tmp_path, capfd, monkeypatch):
    """Modes, depths and shapes; twice in the folder of the pictures, which gets the results."""
    image = Image.fromarray(np.asarray(picture(60, 45)))
    folder = tmp_path / 'in'
    folder.mkdir()
    monkeypatch.chdir(folder)
    modes = {
        'grey.png': 'L', 'palette.png': 'P', 'la.png': 'LA', 'bit.png': '1', 'cmyk.jpg': 'CMYK',
        'rgba.webp': 'RGBA', 'sub/a.gif': 'RGB',
    }  # fmt: skip
    for name, mode in modes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        image.convert(mode).save(name)
    cv2.imwrite('deep.png', np.asarray(image).astype(np.uint16) * 16)
    (folder / 'float.tif').write_bytes(tiff(np.asarray(image.convert('F')) / 255))
    (folder / 'noend.jpg').write_bytes(jpeg(60, 45)[:-2])
    Image.new('RGB', (1, 1)).save('one.png')
    (folder / '.hidden.jpg').write_bytes(b'')
    os.symlink(folder, folder / 'loop')
    Image.new('RGB', (2000, 3), 'red').save('strip.png')
    (folder / 'phone.jpg').write_bytes(b'\0\0\0\x18ftypheic' + bytes(300))
    for _ in range(2):
        printed = predict(capfd, trained[1], '.', '--score-thr', '0', '--batch-size', '4', code=3)
        assert 'error: 2 of 13 inputs could not be read\n' in printed
        assert re.search('not read: strip.png .*2000 x 3 pixels', printed)
        assert re.search('not read: phone.jpg .*convert it to JPEG', printed)
        coco = COCO('predictions/images.json').loadRes('predictions/predictions.json')
        assert len(coco.dataset['images']) == len(coco.imgToAnns) == 11
    assert 'were drawn by an earlier prediction and are not inputs' in printed
    error = failure_of(capfd, 'predict', trained[1], '.', '--out', 'one.png', '--no-pictures')
    assert 'the output folder one.png cannot be written (it is a file)' in error


def test_pil_images_and_grey_arrays(detector, tmp_path):
    image = picture(60, 45)
    image.save(tmp_path / 'a.png')
    expected = detector.predict(tmp_path / 'a.png')
    assert_same(detector.predict(image), expected)
    assert_same(detector.predict(np.asarray(image.convert('RGBA')), channel_order='rgb'), expected)
    grey = np.asarray(image.convert('L'))
    assert_same(detector.predict(grey), detector.predict(np.dstack([grey] * 3)))
    assert detector.predict([]) == [] and len(detector.predict(p for p in [image, grey])) == 2
    for wrong, message in (
        (jpeg(), 'PIL.Image.open'),
        (torch.zeros(3, 8, 9), 'permute'),
        ([['a.jpg']], 'one list of images'),
        (np.zeros((2, 2000, 3), np.uint8), '2000 x 2 pixels'),
        (str(tmp_path), 'is not a file but a folder'),
        ('https://example.com/a.jpg', 'is not a file but a URL; download it first'),
    ):
        with pytest.raises(InputError, match=message):
            detector.predict(wrong)


@pytest.mark.parametrize('case', BROKEN)
def test_files_that_are_not_images(detector, tmp_path, case):
    (tmp_path / 'a.jpg').write_bytes(BROKEN[case][0])
    (prediction,) = detector.predict_each([tmp_path / 'a.jpg'])
    assert prediction.sample is None and 'a.jpg is not a valid image' in prediction.problem


def test_inputs_that_match_nothing(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='empty has no images or videos; looked for .* .jpg'):
        expand_inputs([str(tmp_path / 'empty')])
    with pytest.raises(FileNotFoundError, match=r'\*.jpg is not a file, a folder or a pattern'):
        expand_inputs([str(tmp_path / '*.jpg')])


def change_checkpoint(trained, path, **meta):
    checkpoint = torch.load(trained[1], weights_only=False)
    checkpoint['meta'].update(meta)
    torch.save(checkpoint, path)
    return path


def test_older_checkpoints_are_read_from_their_text(trained, detector, images, tmp_path):
    path = change_checkpoint(trained, tmp_path / 'old.pth', **{CONFIG_KEY: None})
    loaded = mmdet_dinov2.load(path, device='cpu')
    assert_same(loaded.predict(images[0]), detector.predict(images[0]))


def test_a_config_that_runs_code_is_refused(trained, tmp_path, capfd):
    marker = tmp_path / 'marker'
    evil = f'open({str(marker)!r}, "w")'
    path = change_checkpoint(trained, tmp_path / 'a.pth', cfg=f'model = {evil}', config_data=None)
    error = failure_of(capfd, 'predict', path, tmp_path)  # no images: looked for first
    assert 'has no images or videos' in error
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((9, 9, 3), np.uint8))
    error = failure_of(capfd, 'predict', path, tmp_path)
    assert 'is not made of plain values' in error and not marker.exists()


def test_a_config_in_a_resumed_checkpoint_is_not_run(trained, tmp_path):
    marker = tmp_path / 'marker'
    path = change_checkpoint(
        trained, tmp_path / 'a.pth', config=f'open({str(marker)!r}, "w")\ngpu_ids = []'
    )
    config = write_config(tmp_path, 'train_cfg = dict(max_epochs=1)\n', data=trained[0] / 'shapes')
    run_tool('train', config, '--work-dir', tmp_path / 'work', '--resume', path)
    assert not marker.exists()


def test_the_inferencer_of_mmdet_takes_the_checkpoint_alone(trained, detector, images):
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(weights=str(trained[1]), device='cpu', show_progress=False)
    result = inferencer(images[0], no_save_vis=True, return_datasamples=True)
    assert_same(result['predictions'], detector.predict(images[0]))


def scene(folder, suffix='.png'):
    """Writes an image of 200 x 150 pixels with shapes; returns its path."""
    picture, _ = draw_scene(
        np.random.default_rng(0), Scene(width=200, height=150, num_shapes=12, largest=40)
    )
    path = folder / f'scene{suffix}'
    if suffix == '.tif':
        pytest.importorskip('tifffile').imwrite(
            path, picture[..., ::-1], tile=(64, 64), photometric='rgb'
        )
    else:
        cv2.imwrite(str(path), picture)
    return path


def test_tiles_of_files_and_arrays(trained, tmp_path):
    plain = mmdet_dinov2.load(trained[1], device='cpu')
    tiled = mmdet_dinov2.load(trained[1], device='cpu', tile=84)
    path = scene(tmp_path)
    (found,) = tiled.predict(path)
    assert len(found.pred_instances) > len(plain.predict(path)[0].pred_instances) > 0
    assert (found.pred_instances.scores.diff() <= 0).all()
    assert_same(tiled.predict(cv2.imread(str(path))), [found])
    settings = dict(size=84, batch=3)
    assert_same(mmdet_dinov2.load(trained[1], tile=settings, device='cpu').predict(path), [found])
    assert_same(
        mmdet_dinov2.load(trained[1], tile=False, device='cpu').predict(path), plain.predict(path)
    )
    # Read in parts, only the image as a whole is reduced in a different way.
    parts = dict(size=84, whole=False)
    tiled = mmdet_dinov2.load(trained[1], tile=parts, device='cpu')
    assert_same(tiled.predict(scene(tmp_path, '.tif')), tiled.predict(path))


def test_an_image_that_fits_in_a_tile_is_resized_as_without(trained, images):
    plain = mmdet_dinov2.load(trained[1], device='cpu').predict(images)
    assert_same(mmdet_dinov2.load(trained[1], device='cpu', tile=200).predict(images), plain)


def test_the_tool_predicts_in_tiles(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr('mmdet_dinov2.inference.file_predictions._MAX_DRAWN_SIDE', 100)
    path, out = scene(tmp_path), tmp_path / 'out'
    predict(capfd, trained[1], path, '--tile', '84', '--out', out, '--score-thr', '0')
    (found,) = mmdet_dinov2.load(trained[1], device='cpu', tile=84).predict(path)
    results = json.loads((out / 'predictions.json').read_text())
    assert len(results) == len(found.pred_instances)
    (drawn,) = (out / 'pictures').iterdir()
    assert cv2.imread(str(drawn)).shape == (75, 100, 3)
    for arguments, message in (
        (('--tile', '5'), 'a tile of 5 pixels is smaller than a patch of the backbone, 14 pixels'),
        (('--tile', '84', '--tta'), 'tiles and tta do not work together'),
    ):
        error = failure_of(capfd, 'predict', trained[1], path, *arguments, '--out', tmp_path / 'b')
        assert message in error


def test_an_evaluation_in_tiles(trained, tmp_path, capfd):
    config, out = trained[0] / 'tiny.py', tmp_path / 'found.pkl'
    arguments = ('--work-dir', tmp_path / 'work', '--out', out)
    run_tool('test', config, trained[1], '--tile', '64', *arguments)
    images = sorted((trained[0] / 'shapes/val').iterdir())
    found = mmengine.load(out)
    assert 'large_image' not in found[0]
    tiled = mmdet_dinov2.load(trained[1], device='cpu', tile=64).predict(images)
    plain = mmdet_dinov2.load(trained[1], device='cpu').predict(images)
    for one, other, without in zip(found, tiled, plain, strict=True):
        assert np.allclose(one['pred_instances']['scores'], other.pred_instances.scores, atol=1e-5)
        assert len(other.pred_instances) != len(without.pred_instances)
    error = failure_of(capfd, 'test', config, trained[1], '--tile', '64', '--tta')
    assert 'tiles and --tta do not work together' in error
