"""The reader of exported files: its results, what it needs, and what it refuses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from mmcv.image import imrescale
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as coco_mask

import mmdet_dinov2
from mmdet_dinov2.analysis.predictions import make_predictions
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference import reader
from mmdet_dinov2.inference.reader import (
    Metadata,
    Reader,
    ReaderError,
    interpolate_mask,
    read_metadata,
    resize,
)
from mmdet_dinov2.models.mask_prediction import masks_from_logits

from ..tools import run_tool

METADATA = Metadata(
    ('a', 'b'), 'rgb', (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), None, 0.3, None, 64, 'fp32', 'a.pth'
)


@pytest.fixture(scope='module')
def exported_reader(exported):
    return Reader(exported)


def write_pictures(folder, picture):
    """One picture as files of many kinds."""
    rgb = Image.fromarray(picture[..., ::-1].copy())
    grey = rgb.convert('L')
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        'plain.png': (rgb, {}),
        'plain.jpg': (rgb, dict(quality=90)),
        'grey.png': (grey, {}),
        'grey.jpg': (grey, {}),
        'rgba.png': (Image.merge('RGBA', (*rgb.split(), grey)), {}),
        'palette.png': (rgb.convert('P'), {}),
        'turned.jpg': (rgb, dict(exif=exif)),
        'turned.png': (rgb, dict(exif=exif)),
    }
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    deep = np.asarray(grey).astype(np.uint16) * 16 + 7
    cv2.imwrite(str(folder / 'deep.png'), deep)
    cv2.imwrite(str(folder / 'deep_colour.png'), picture.astype(np.uint16) * 16)
    return [folder / name for name in (*files, 'deep.png', 'deep_colour.png')]


def test_results_equal_those_of_the_checkpoint(
    exported, exported_reader, detector, pictures, tmp_path
):
    files = write_pictures(tmp_path, cv2.imread(str(pictures[0]))[:150, :117])
    loaded = mmdet_dinov2.load(exported)
    assert loaded.classes == detector.classes
    for file in files:
        (known,) = detector.predict(file, score_thr=0.1)
        (same,) = loaded.predict(file, score_thr=0.1)
        known, same = known.pred_instances, same.pred_instances
        found = exported_reader.predict(file)
        assert len(found) == len(known) == len(same) > 0, file
        for values in ([d.score for d in found], same.scores):
            np.testing.assert_allclose(values, known.scores, rtol=0, atol=1e-5, err_msg=file.name)
        for values in ([d.box for d in found], same.bboxes):
            np.testing.assert_allclose(values, known.bboxes, rtol=0, atol=0.01, err_msg=file.name)
        assert [d.label for d in found] == known.labels.tolist() == same.labels.tolist()


def test_pictures_of_several_sizes_in_a_batch(exported, detector, pictures):
    loaded = mmdet_dinov2.load(exported)
    images = [cv2.imread(str(pictures[0])), cv2.resize(cv2.imread(str(pictures[1])), (150, 120))]
    for known, found in zip(detector.predict(images, batch_size=2), loaded.predict(images, 2)):
        np.testing.assert_allclose(
            found.pred_instances.scores, known.pred_instances.scores, rtol=0, atol=1e-5
        )
    assert len(loaded.predict(images[0], score_thr=0.9)) == 1


@pytest.mark.parametrize('size', [(150, 117), (84, 84), (31, 200), (260, 130), (83, 1)])
@pytest.mark.parametrize('scale', [(84, 84), (133, 80), (50, 300)])
def test_sizes_and_pixels_are_those_of_mmcv(size, scale):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = imrescale(image, scale)
    got, (x, y) = resize(image, dict(scale=list(scale), keep_ratio=True))
    assert np.array_equal(got, expected)
    assert (x, y) == (expected.shape[1] / size[1], expected.shape[0] / size[0])
    got, _ = resize(image, dict(scale=[20, 30], keep_ratio=False))
    assert np.array_equal(got, cv2.resize(image, (20, 30)))


@pytest.mark.parametrize('scale', [(1.0, 1.0), (0.7, 0.71)])
def test_masks_are_those_of_the_detector(scale):
    logits = np.random.default_rng(0).standard_normal((4, 30, 26)).astype(np.float32)
    size = int(117 / scale[1]), int(104 / scale[0])
    boxes = [(-3.0, 2.2, 60.1, 80.9), (20, 30, 20, 30), (50, 60, 300, 300), (1, 2, 3.5, 4.1)]
    cell = tuple(4.0 / factor for factor in scale)
    expected = masks_from_logits(
        torch.from_numpy(logits), torch.tensor(cell), torch.tensor(boxes), size
    )
    for of_object, box, known in zip(logits, boxes, expected, strict=True):
        mask = interpolate_mask(of_object, cell, box, size)
        assert np.array_equal(mask.of_image(), coco_mask.decode(known))
        assert coco_mask.frPyObjects(mask.run_lengths(), *size) == known


def test_results_and_json_of_masks(tmp_path, monkeypatch, capsys):
    masks = np.full((1, 2, 8, 12), -1.0, np.float32)
    masks[0, 0, 2:5] = 1
    found = [np.array([[[8, 4, 44, 28], [0, 0, 9, 9]]], np.float32), np.array([[0.9, 0.2]]),
             np.array([[1, 0]]), masks]  # fmt: skip
    texts = replace(METADATA, mask_stride=4.0, smallest_side=1).as_texts()
    assert Metadata.from_texts(texts, 'a').outputs == ('boxes', 'scores', 'labels', 'masks')
    monkeypatch.setattr(reader, 'read_metadata', lambda path: Metadata.from_texts(texts, path))
    monkeypatch.setattr(reader, '_choose_runtime', lambda path: 'onnxruntime')
    monkeypatch.setattr(reader, '_start_onnxruntime', lambda *args: lambda images: found)
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((32, 48, 3), np.uint8))
    (detection,) = Reader(tmp_path / 'a.onnx').predict(tmp_path / 'a.png')
    assert detection.mask.inside.shape == (24, 36)
    expected = np.zeros((32, 48), bool)
    expected[8:20, 8:44] = True
    assert np.array_equal(detection.mask.of_image(), expected)
    assert reader.main(['a.onnx', str(tmp_path / 'a.png')]) == 0
    (entry,) = json.loads(capsys.readouterr().out)['detections']
    assert entry['label'] == 'b' and entry['mask']['size'] == [32, 48]
    assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(entry['mask'], 32, 48)), expected)


BLOCKED = """
import sys
for name in ('torch', 'torchvision', 'mmcv', 'mmdet', 'mmengine', 'mmdet_dinov2', 'PIL', 'onnx'):
    sys.modules[name] = None
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_the_copy_needs_numpy_opencv_and_a_runtime_only(exported, exported_reader, pictures):
    copied = exported.parent / 'reader.py'
    missing = str(exported.parent / 'missing.jpg')
    result = subprocess.run(
        [sys.executable, '-I', '-c', BLOCKED, str(copied), str(exported), pictures[0], missing],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr == f'error: image {missing} does not exist; check the path\n'
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    expected = exported_reader.predict(pictures[0])
    assert found['image'] == pictures[0] and len(found['detections']) == len(expected) > 0
    assert [d['score'] for d in found['detections']] == [round(d.score, 4) for d in expected]


def test_commands_take_exported_files(exported, tiny, pictures, tmp_path):
    out = tmp_path / 'predictions'
    run_tool('predict', exported, *pictures, '--out', out, '--score-thr', '0.1')
    assert json.loads((out / 'predictions.json').read_text())
    config = tiny / 'tiny.py'
    run_tool('test', config, exported, '--work-dir', tmp_path / 'test', '--out', tmp_path / 'a.pkl')
    run_tool(
        'test',
        config,
        tiny / 'tiny.pth',
        '--work-dir',
        tmp_path / 'known',
        '--out',
        tmp_path / 'b.pkl',
    )
    tested, known = (
        json.loads(next((tmp_path / folder).rglob('evaluation.json')).read_text())
        for folder in ('test', 'known')
    )
    assert tested.keys() == known.keys()
    assert make_predictions(Config.fromfile(config), exported)


# ------------------------------------------------------------------------------ refused


def test_a_picture_that_does_not_fit_is_named_and_the_others_are_predicted(
    exported, pictures, tmp_path, capfd
):
    folder = tmp_path / 'in'
    folder.mkdir()
    Image.new('RGB', (140, 20)).save(folder / 'a narrow one.png')
    shutil.copy(pictures[0], folder / 'b.jpg')
    with pytest.raises(SystemExit) as end:
        run_tool('predict', exported, folder, '--out', tmp_path / 'out')
    assert end.value.code == 3
    error = capfd.readouterr().err
    assert 'a narrow one.png does not fit: ' in error and 'sides of at least 57 pixels' in error
    found = json.loads((tmp_path / 'out/images.json').read_text())
    assert [image['file_name'] for image in found['images']] == ['b.jpg']


def test_texts_are_read_as_they_were_written():
    assert Metadata.from_texts(METADATA.as_texts(), 'a.onnx') == METADATA


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        (dict(format='other'), 'does not have the metadata'),
        (dict(format_version='2'), 'format version 2, but this reader knows version 1 only'),
        (dict(classes='['), 'damaged metadata'),
        (dict(mean=None), 'damaged metadata'),
        (dict(resize='5'), 'damaged metadata'),
        (dict(resize='{}'), 'damaged metadata'),
        (dict(resize='{"scale": ["a", 1], "keep_ratio": true}'), 'damaged metadata'),
        (dict(resize='{"scale": [20000, 20000], "keep_ratio": true}'), 'damaged metadata'),
        (dict(mean='["a", 1, 1]'), 'damaged metadata'),
        (dict(std='[0, 0, 0]'), 'damaged metadata'),
        (dict(size='[8]'), 'damaged metadata'),
        (dict(smallest_side='"x"'), 'damaged metadata'),
        (dict(classes='[1]'), 'damaged metadata'),
    ],
)
def test_other_metadata_are_refused(changes, expected):
    texts = {**METADATA.as_texts(), **changes}
    texts = {key: value for key, value in texts.items() if value is not None}
    with pytest.raises(ReaderError, match=expected):
        Metadata.from_texts(texts, 'a.onnx')


def save(path, location=None, texts=None, inside=False):
    onnx = pytest.importorskip('onnx')
    tensor = onnx.helper.make_tensor('w', onnx.TensorProto.FLOAT, [1], [1.0])
    if location:
        tensor.ClearField('float_data')
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key='location', value=location)
    nodes, tensors = [onnx.helper.make_node('Identity', ['w'], ['y'])], [tensor]
    if inside:
        nodes, tensors = [onnx.helper.make_node('Constant', [], ['y'], value=tensor)], []
    output = onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(nodes, 'g', [], [output], tensors)
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, METADATA.as_texts() if texts is None else texts)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize('inside', [False, True])
@pytest.mark.parametrize('location', ['../w.bin', '/etc/passwd', 'a/../../w.bin', 'C:\\w.bin'])
def test_weights_outside_of_the_folder_are_refused(tmp_path, location, inside):
    path = save(tmp_path / 'a.onnx', location, inside=inside)
    with pytest.raises(ReaderError, match='outside of its folder'):
        Reader(path)
    with pytest.raises(InputError, match='outside of its folder'):
        mmdet_dinov2.load(path)


def test_weights_of_openvino_that_are_a_link_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / 'model'
    folder.mkdir()
    (tmp_path / 'w.bin').write_bytes(b'1234')
    (folder / 'a.bin').symlink_to(tmp_path / 'w.bin')
    (folder / 'a.xml').write_text('<net><rt_info/></net>')
    with pytest.raises(ReaderError, match='a link out of its folder'):
        read_metadata(folder / 'a.xml')


def test_a_tag_that_others_would_cut_is_refused(tmp_path):
    def number(value):
        parts = []
        while value > 127:
            parts.append(value & 127 | 128)
            value >>= 7
        return bytes([*parts, value])

    (tmp_path / 'a.onnx').write_bytes(number((14 << 3 | 2) | 1 << 32) + b'\x00')
    with pytest.raises(ReaderError, match='not a complete ONNX file'):
        read_metadata(tmp_path / 'a.onnx')


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / 'model'
    folder.mkdir()
    (tmp_path / 'w.bin').write_bytes(b'1234')
    (folder / 'w.bin').symlink_to(tmp_path / 'w.bin')
    with pytest.raises(ReaderError, match='a link out of its folder'):
        Reader(save(folder / 'a.onnx', 'w.bin'))
    (folder / 'w.bin').unlink()
    (folder / 'w.bin').write_bytes(b'1234')
    assert read_metadata(folder / 'a.onnx') == METADATA


def test_files_that_are_no_exported_detectors(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        mmdet_dinov2.load(tmp_path / 'missing.onnx')
    for content in (b'', b'\xff' * 40, b'{"a": 1}'):
        (tmp_path / 'broken.onnx').write_bytes(content)
        with pytest.raises(InputError, match='not a complete ONNX file|does not have the metadata'):
            mmdet_dinov2.load(tmp_path / 'broken.onnx')
    with pytest.raises(InputError, match='does not have the metadata'):
        mmdet_dinov2.load(save(tmp_path / 'foreign.onnx', texts={}))
    (tmp_path / 'a.xml').write_text('<net><rt_info/></net>')
    with pytest.raises(InputError, match='does not have the metadata'):
        mmdet_dinov2.load(tmp_path / 'a.xml')
    (tmp_path / 'a.xml').write_text('<!DOCTYPE a [<!ENTITY b "c">]><net>&b;</net>')
    with pytest.raises(InputError, match='declarations that OpenVINO does not write'):
        mmdet_dinov2.load(tmp_path / 'a.xml')
    (tmp_path / 'a.pt2').write_bytes(b'')
    with pytest.raises(InputError, match='torch.export.load reads it'):
        mmdet_dinov2.load(tmp_path / 'a.pt2')


def test_truncated_files(exported, tmp_path):
    content = exported.read_bytes()
    (tmp_path / 'a.onnx').write_bytes(content[: len(content) // 2])
    with pytest.raises(ReaderError, match='not a complete ONNX file'):
        read_metadata(tmp_path / 'a.onnx')


def test_sizes_and_images_that_are_refused(exported_reader, tmp_path):
    with pytest.raises(ReaderError, match='sides of at least 57 pixels, but got 40 x 200'):
        exported_reader.run(np.zeros((1, 3, 40, 200), np.float32))
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    with pytest.raises(ReaderError, match='is not an image that OpenCV reads'):
        exported_reader.predict(tmp_path / 'a.jpg')
    with pytest.raises(ReaderError, match='H x W x 3, uint8'):
        exported_reader.predict(np.zeros((5, 5), np.uint8))
    with pytest.raises(ReaderError, match='too narrow'):
        exported_reader.predict(np.zeros((1, 900, 3), np.uint8))


def test_a_runtime_that_is_missing_is_named(exported, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ReaderError, match='needs the package onnxruntime or openvino: pip install'):
        Reader(exported)


def test_the_reader_imports_nothing_of_the_project():
    import ast
    import pathlib

    tree = ast.parse(pathlib.Path(reader.__file__).read_text())
    names = {
        alias.name.partition('.')[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        node.module.partition('.')[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert names - set(sys.stdlib_module_names) == {'numpy', 'cv2', 'onnxruntime', 'openvino'}
