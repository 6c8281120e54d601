"""Results of predictions as files: written as they come, and never lost or taken for inputs."""

import csv
import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference.detector import ImagePrediction
from mmdet_dinov2.inference.file_predictions import FilePredictor
from mmdet_dinov2.inference.growing_file import GrowingFile
from mmdet_dinov2.inference.image_inputs import expand_inputs
from mmdet_dinov2.inference.output_folder import EarlierOutputs, check_output
from mmdet_dinov2.inference.prediction_files import PredictionFiles, picture_name, write_picture

from ..test_data.images import jpeg

CLASSES = ('cat', '犬')
IMAGE = np.zeros((30, 40, 3), np.uint8)


def sample(num_boxes=2):
    found = InstanceData(
        bboxes=torch.tensor([[1.0, 2.0, 11.0, 22.0]]).repeat(num_boxes, 1),
        labels=torch.arange(num_boxes) % 2,
        scores=torch.full((num_boxes,), 0.5),
    )
    return DetDataSample(metainfo=dict(ori_shape=(30, 40)), pred_instances=found)


class Detects:
    """Stands for a detector: two boxes in every image."""

    classes = CLASSES

    def predict_each(self, images, batch_size, score_thr):
        for image in images:
            yield ImagePrediction(image, IMAGE, sample())


def results_of(folder):
    """Reads the three files as other programs do; returns names, boxes of each and rows."""
    coco = COCO(folder / 'images.json').loadRes(str(folder / 'predictions.json'))
    names = [image['file_name'] for image in coco.dataset['images']]
    boxes = [len(coco.imgToAnns[image['id']]) for image in coco.dataset['images']]
    with (folder / 'predictions.csv').open(encoding='utf-8', newline='') as file:
        return names, boxes, list(csv.DictReader(file))


@contextmanager
def full_disk(size):
    """Lets no file grow beyond a size, as a quota or a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_files_are_complete_after_each_image(tmp_path):
    files = PredictionFiles(tmp_path, CLASSES)
    assert not any(tmp_path.iterdir())
    for count, boxes in enumerate((2, 0, 3), 1):
        files.add(f'{count}.jpg', sample(boxes))
        # Not closed: what a program leaves that is killed.
        names, found, rows = results_of(tmp_path)
        assert names == [f'{index}.jpg' for index in range(1, count + 1)]
        assert found == [2, 0, 3][:count] and len(rows) == sum(found)
    assert [row['class'] for row in rows] == ['cat', '犬', 'cat', '犬', 'cat']
    files.close()
    assert results_of(tmp_path)[0] == names


def with_masks(found):
    """Adds masks of 3, 6, 9 ... pixels."""
    masks = np.zeros((len(found.pred_instances), 30, 40), dtype=bool)
    for index, mask in enumerate(masks):
        mask[4 : 5 + index, 7:10] = True
    found.pred_instances.masks = masks
    return found, masks


@pytest.mark.parametrize('polygons', [False, True])
def test_masks_are_written(tmp_path, polygons):
    files = PredictionFiles(tmp_path, CLASSES, polygons=polygons)
    (first, masks), (empty, _) = with_masks(sample(2)), with_masks(sample(0))
    files.add('a.jpg', first)
    files.add('b.jpg', empty)
    files.close()
    _, found, rows = results_of(tmp_path)
    assert found == [2, 0] and [row['area'] for row in rows] == ['3', '6']
    coco = COCO(tmp_path / 'images.json').loadRes(str(tmp_path / 'predictions.json'))
    for mask, (number, entry) in zip(masks, sorted(coco.anns.items()), strict=True):
        assert (coco.annToMask(entry) == mask).all(), number
        assert isinstance(entry['segmentation'], list) == polygons


def test_boxes_alone_have_no_area(tmp_path):
    files = PredictionFiles(tmp_path, CLASSES)
    files.add('a.jpg', sample())
    assert list(results_of(tmp_path)[2][0]) == ['image', 'class', 'score', 'x1', 'y1', 'x2', 'y2']
    assert 'segmentation' not in json.loads((tmp_path / 'predictions.json').read_text())[0]


def test_without_any_image_there_are_empty_files_unless_there_are_others(tmp_path):
    PredictionFiles(tmp_path, CLASSES).close()
    assert json.loads((tmp_path / 'predictions.json').read_text()) == []
    assert json.loads((tmp_path / 'images.json').read_text())['images'] == []
    files = PredictionFiles(tmp_path, CLASSES)
    files.add('a.jpg', sample())
    files.close()
    PredictionFiles(tmp_path, CLASSES).close()
    assert results_of(tmp_path)[0] == ['a.jpg']


@pytest.mark.parametrize('room', [500, 700, 900, 1100, 1300])
def test_a_full_disk_loses_the_image_in_hand_only(tmp_path, room):
    files = PredictionFiles(tmp_path, CLASSES)
    with full_disk(room), pytest.raises(InputError, match='cannot be written .*are kept'):
        for index in range(99):
            files.add(f'{index}.jpg', sample())
    names, found, rows = results_of(tmp_path)
    assert len(names) == index > 0
    assert found == [2] * index and len(rows) == 2 * index
    files.add('more.jpg', sample())  # there is room again
    assert results_of(tmp_path)[0] == [*names, 'more.jpg']


def test_a_part_is_taken_back(tmp_path):
    file = GrowingFile(tmp_path / 'a', b'<', b'>', b',')
    file.append(b'one')
    file.append(b'two')
    assert (tmp_path / 'a').read_bytes() == b'<one,two>'
    file.undo()
    assert (tmp_path / 'a').read_bytes() == b'<one>'
    file.append(b'')
    file.undo()
    file.append(b'three')
    assert (tmp_path / 'a').read_bytes() == b'<one,three>'


def predict(folder, out, draws=True):
    """Does what the tool does with a folder, with boxes that are known; returns the predictor."""
    files = expand_inputs([str(folder)], EarlierOutputs(out if draws else None))
    check_output(out, {file.picture: file.path for file in files} if draws else {})
    results = PredictionFiles(out, CLASSES, draws=draws)
    predictor = FilePredictor(Detects(), results, out / 'pictures' if draws else None)
    try:
        predictor.predict(files)
    finally:
        results.close()
    return predictor


def photos(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())
    return folder


@pytest.mark.parametrize('out', ['predictions', '.', 'a/b'])
def test_pictures_with_boxes_are_no_inputs(tmp_path, out):
    photos(tmp_path, 'a.jpg', 'b/pictures/c.jpg')
    for _ in range(3):
        predict(tmp_path, tmp_path / out)
        assert results_of(tmp_path / out)[0] == ['a.jpg', 'b/pictures/c.jpg']
    # Those of a different output folder, nor those of one that was moved.
    predict(tmp_path, tmp_path / 'other')
    predict(tmp_path, tmp_path / 'other', draws=False)
    (tmp_path / 'other').rename(tmp_path / 'moved')
    predict(tmp_path, tmp_path / 'third')
    assert results_of(tmp_path / 'third')[0] == ['a.jpg', 'b/pictures/c.jpg']
    # Named themselves.
    drawn = tmp_path / 'third/pictures'
    for named in (drawn, drawn / 'a.jpg', drawn / '*.jpg'):
        with pytest.raises(InputError, match=r'nothing to predict on: \d pictures in .*third/pict'):
            expand_inputs([str(named)])
    earlier = EarlierOutputs()
    assert len(expand_inputs([str(tmp_path)], earlier)) == 2 and 'third/pictures' in earlier.note()


def test_pictures_of_an_earlier_version_are_no_inputs(tmp_path):
    photos(tmp_path, 'a.jpg', 'predictions/pictures/a.jpg')
    for name, content in (('images', '{"images": []}'), ('predictions', '[]')):
        (tmp_path / f'predictions/{name}.json').write_text(content)
    (tmp_path / 'predictions/predictions.csv').touch()
    predict(tmp_path, tmp_path / 'predictions')
    assert results_of(tmp_path / 'predictions')[0] == ['a.jpg']


def test_no_file_of_somebody_else_is_replaced(tmp_path):
    photos(tmp_path, 'pictures/a.jpg', 'photos/a.jpg')
    before = (tmp_path / 'pictures/a.jpg').read_bytes()
    with pytest.raises(InputError, match=r'would replace the input .*pictures/a\.jpg; choose'):
        predict(tmp_path / 'pictures', tmp_path)
    with pytest.raises(InputError, match=r'would replace .*a\.jpg, which no prediction drew'):
        predict(tmp_path / 'photos', tmp_path)
    assert (tmp_path / 'pictures/a.jpg').read_bytes() == before
    predict(tmp_path / 'pictures', tmp_path, draws=False)
    assert results_of(tmp_path)[0] == ['a.jpg']
    (tmp_path / 'photos/images.json').write_text('{}')
    with pytest.raises(InputError, match=r"holds 'images\.json', which no prediction wrote"):
        predict(tmp_path / 'photos', tmp_path / 'photos')
    assert (tmp_path / 'photos/images.json').read_text() == '{}'


@pytest.mark.parametrize('draws', [True, False])
def test_a_folder_that_cannot_be_written_is_found_first(tmp_path, draws):
    (tmp_path / 'file').touch()
    pictures = {'a.jpg': tmp_path / 'a.jpg'} if draws else {}
    for out, message in (
        (tmp_path / 'file', 'file cannot be written .it is a file.; choose a different folder'),
        (tmp_path / 'file/below', 'below cannot be written .Not a directory.'),
        ('/proc/nothing', 'nothing cannot be written'),
    ):
        with pytest.raises(InputError, match=message):
            check_output(tmp_path / out, pictures)
    (tmp_path / 'out/predictions.csv').mkdir(parents=True)
    with pytest.raises(InputError, match=r'predictions\.csv cannot be written'):
        check_output(tmp_path / 'out', pictures)


def test_names_that_are_not_utf_8(tmp_path):
    photos(tmp_path / 'in', 'b.jpg')
    os.rename(tmp_path / 'in/b.jpg', os.fsencode(tmp_path) + b'/in/caf\xe9.jpg')
    photos(tmp_path / 'in', 'café.jpg')
    predict(tmp_path / 'in', tmp_path / 'out')
    names, found, rows = results_of(tmp_path / 'out')
    assert names == ['café.jpg', 'caf\\xe9.jpg'] and found == [2, 2]
    assert [row['image'] for row in rows] == [name for name in names for _ in range(2)]
    assert sorted(os.listdir(tmp_path / 'out/pictures')) == sorted(names)


def test_a_video_whose_name_is_not_utf_8(tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / 'a.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, IMAGE.shape[1::-1]
    )
    for _ in range(3):
        writer.write(IMAGE)
    writer.release()
    latin = os.fsencode(tmp_path) + b'/in-\xe9'
    os.mkdir(latin)
    os.rename(tmp_path / 'a.avi', latin + b'/caf\xe9.avi')
    folder = Path(os.fsdecode(latin))
    predictor = predict(folder, tmp_path / 'out')
    assert predictor.num_images == 3 and not predictor.problems and not predictor.not_drawn
    assert results_of(tmp_path / 'out')[0][0] == 'caf\\xe9.avi/000000'
    assert (tmp_path / 'out/pictures/caf\\xe9.avi.mp4').stat().st_size > 0
    predictor = predict(folder, folder / 'out')
    assert predictor.num_images == 3 and 'UTF-8 only' in str(predictor.not_drawn.values())


def test_a_picture_that_cannot_be_drawn_costs_nothing_else(tmp_path, monkeypatch):
    photos(tmp_path / 'in', 'a.jpg', f'{"b" * 251}.jpg', 'c.jpg')
    long = next(file for file in expand_inputs([str(tmp_path / 'in')]) if file.name[0] == 'b')
    monkeypatch.setattr(
        'mmdet_dinov2.inference.image_inputs.picture_name', lambda name: f'{name}.png'
    )
    predictor = predict(tmp_path / 'in', tmp_path / 'out')
    assert list(predictor.not_drawn) == [long.path]
    assert 'cannot be written (File name too long)' in predictor.not_drawn[long.path]
    assert len(results_of(tmp_path / 'out')[0]) == 3
    assert sorted(os.listdir(tmp_path / 'out/pictures')) == ['a.jpg.png', 'c.jpg.png']


def test_a_full_disk_while_drawing(tmp_path):
    photos(tmp_path / 'in', *(f'{index:03d}.jpg' for index in range(200)))
    big = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    with full_disk(20_000):
        with pytest.raises(OSError, match='too large'):
            write_picture(tmp_path / 'big.png', big)
        assert not (tmp_path / 'big.png').exists()
        with pytest.raises(InputError, match='cannot be written'):
            predict(tmp_path / 'in', tmp_path / 'out')
    names = results_of(tmp_path / 'out')[0]
    assert 10 < len(names) < 200
    assert len(os.listdir(tmp_path / 'out/pictures')) == len(names)


@pytest.mark.parametrize(
    ('name', 'picture'),
    [
        ('a.jpg', 'a.jpg'),
        ('A.PNG', 'A.PNG'),
        ('a.gif', 'a.gif.jpg'),
        ('a.jfif', 'a.jfif.jpg'),
        ('a', 'a.jpg'),
    ],
)
def test_names_of_pictures(tmp_path, name, picture):
    assert picture_name(name) == picture
    write_picture(tmp_path / picture, IMAGE)
    assert (tmp_path / picture).stat().st_size > 50


def test_pictures_of_the_same_name(tmp_path):
    photos(tmp_path, 'a.gif', 'a.gif.jpg')
    drawn = [file.picture for file in expand_inputs([str(tmp_path)])]
    assert drawn == ['a.gif.jpg', 'a.gif_2.jpg']


def test_links_are_followed_and_loops_are_not(tmp_path):
    photos(tmp_path / 'store', 'cam/1.jpg', 'cam/2.jpg')
    photos(tmp_path / 'in', '0.jpg', '.hidden/x.jpg', '__MACOSX/x.jpg', '.trash.jpg')
    (tmp_path / 'in/cam').symlink_to(tmp_path / 'store/cam')
    (tmp_path / 'in/loop').symlink_to(tmp_path / 'in')
    (tmp_path / 'in/one.jpg').symlink_to(tmp_path / 'store/cam/1.jpg')
    (tmp_path / 'in/dead.jpg').symlink_to(tmp_path / 'nothing.jpg')
    names = [file.name for file in expand_inputs([str(tmp_path / 'in')])]
    assert names == ['0.jpg', 'cam/1.jpg', 'cam/2.jpg', 'one.jpg']
