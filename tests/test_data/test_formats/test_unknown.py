"""Folders in which no dataset is found are told what they look like."""

import json
import zipfile

import pytest
from PIL import Image

from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.errors import InputError


def text(name, content):
    def write(root):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def zipped(root):
    with zipfile.ZipFile(root / 'data.zip', 'w') as archive:
        archive.writestr('a.txt', 'a')


@pytest.mark.parametrize(
    ('write', 'what', 'remedy'),
    [
        (
            text('labels/0.txt', '0 0.5 0.5 0.2 0.2'),
            'label files of YOLO in labels/ and 1 pictures in images/',
            'write a data.yaml',
        ),
        (
            text('ann.xml', '<?xml version="1.0"?><annotations><image/></annotations>'),
            'XML annotations of CVAT for images in the folder itself',
            'export them from CVAT as COCO 1.0',
        ),
        (
            text('a/results.json', [dict(image_id=1, bbox=[1, 2, 3, 4], score=1, category_id=1)]),
            "detections in COCO's form for results in a/",
            'give the annotations',
        ),
        (
            text('project.json', [dict(id=1, annotations=[], data=dict(image='x'))]),
            'the JSON of Label Studio',
            'as COCO',
        ),
        (text('x.json', [dict(image='0.jpg', annotations=[])]), 'CreateML', 'COCO'),
        (
            text('via.json', {'_via_settings': {}, 'x': dict(regions=[])}),
            'VGG Image Annotator',
            'COCO',
        ),
        (
            text('labelTxt/0.txt', '1 2 3 2 3 4 1 4 plane 0\n'),
            'oriented boxes in the text form of DOTA in labelTxt/',
            'upright boxes',
        ),
        (text('t.csv', 'filename,xmin,ymin\na.jpg,1,2'), 'a table of boxes', 'COCO'),
        (text('x.tfrecord', 'x'), 'TFRecord files', 'COCO'),
        (zipped, 'archives', 'unpack them'),
        (lambda root: None, '1 pictures in images/, but no annotations were found', ''),
    ],
)
def test_what_a_folder_looks_like(tmp_path, write, what, remedy):
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (40, 30)).save(tmp_path / 'images/0.jpg')
    write(tmp_path)
    with pytest.raises(InputError) as caught:
        find_own_data(tmp_path, tmp_path / 'cache')
    message = str(caught.value)
    assert message.startswith(f'no dataset found in {tmp_path}: it looks like ')
    assert what in message and remedy in message and '\n' not in message


def test_folders_without_files_and_with_others(tmp_path):
    with pytest.raises(InputError, match=f'no dataset found in {tmp_path}: it is empty'):
        find_own_data(tmp_path, tmp_path / 'cache')
    (tmp_path / 'music').mkdir()
    with pytest.raises(InputError, match="it holds 'music/', but no files"):
        find_own_data(tmp_path, tmp_path / 'cache')
    (tmp_path / 'music/a.mp3').touch()
    with pytest.raises(InputError, match="it has files such as 'a.mp3'"):
        find_own_data(tmp_path, tmp_path / 'cache')
