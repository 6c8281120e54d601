"""From a folder of photos to those that are worth a label, through the command."""

import csv
import shutil

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image

from mmdet_dinov2.checkpoint.embedded_config import CONFIG_KEY, plain_config
from mmdet_dinov2.data import generate_shapes
from mmdet_dinov2.selection.uncertainty import score_uncertainty

from ..tools import run_command, write_config

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


@pytest.fixture(scope='module')
def things(tmp_path_factory):
    """A labeled dataset, a folder of photos with near-duplicates, a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('select')
    data = generate_shapes(folder / 'shapes', num_train=8, num_val=4)
    more = generate_shapes(folder / 'more', num_train=20, num_val=1, seed=1)
    photos = folder / 'photos'
    (photos / 'b').mkdir(parents=True)
    for path in sorted((more / 'train').iterdir())[:10]:
        shutil.copy(path, photos / 'b')
    train, val = (sorted((data / split).iterdir()) for split in ('train', 'val'))
    photo = Image.open(train[2])
    photo.resize([side * 2 // 3 for side in photo.size]).save(photos / 'small.jpg', quality=60)
    Image.open(val[1]).transpose(MIRROR).save(photos / 'mirrored.png')
    # The first photo again, compressed, and a labeled one.
    first = Image.open(min((photos / 'b').iterdir()))
    first.transpose(MIRROR).save(photos / 'again.jpg', quality=50)
    (photos / 'labeled.jpg').symlink_to(train[0])
    (photos / 'broken.jpg').write_bytes(b'no photo')
    config = write_config(folder, data=data)
    cfg = Config.fromfile(config)
    model = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():  # detections of all scores
        for layer in model.bbox_head.cls_branches:
            layer.weight.normal_(std=0.3)
    meta = {CONFIG_KEY: plain_config(cfg), 'dataset_meta': dict(classes=cfg.metainfo.classes)}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'a.pth')
    return folder, config, data, photos


def read_csv(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_the_command(things, tmp_path, capfd):
    folder, config, data, photos = things
    out = tmp_path / 'out'
    common = ('select', config, '--unlabeled', photos, '--data', data, '--out', out, '--size', 112)
    run_command(*common, '--count', 5)
    printed = capfd.readouterr()
    assert 'RANDOM WEIGHTS' in printed.out and 'warning: random weights tell' in printed.err
    assert f'1 photos of {photos} are photos of train, and left out' in printed.out
    assert 'broken.jpg is not a valid image' in printed.err
    assert '1 photos of unlabeled are near-duplicates of photos of train' in printed.out
    assert '1 photos of unlabeled are near-duplicates of photos of val' in printed.out
    assert '1 near-duplicates within unlabeled' in printed.out
    assert '5 of 14 unlabeled photos chosen; left out: 2 near-duplicates' in printed.out
    chosen = (out / 'chosen.txt').read_text().splitlines()
    assert len(chosen) == len(set(chosen)) == 5
    assert not {'small.jpg', 'mirrored.png', 'labeled.jpg'} & {c.rsplit('/', 1)[1] for c in chosen}
    rows = read_csv(out / 'chosen.csv')
    assert [row['photo'] for row in rows] == chosen and rows[0]['rank'] == '1'
    distances = [float(row['distance']) for row in rows]
    assert distances == sorted(distances, reverse=True) and rows[0]['uncertainty'] == ''
    pairs = {
        (p['photo'].rsplit('/', 1)[1], p['of_split']): p
        for p in read_csv(out / 'near_duplicates.csv')
    }
    assert len(pairs) == 3
    small, mirrored = pairs['small.jpg', 'train'], pairs['mirrored.png', 'val']
    train, val = (sorted(map(str, (data / split).iterdir())) for split in ('train', 'val'))
    assert small['of'] == train[2] and small['mirrored'] == ''
    assert mirrored['of'] == val[1] and mirrored['mirrored'] == 'yes'
    for name in ('chosen.jpg', 'near_duplicates.jpg'):
        with Image.open(out / name) as sheet:
            assert min(sheet.size) > 180 and np.asarray(sheet).std() > 20
    # Again: nothing is computed, and the same is chosen.
    run_command(*common, '--count', 5)
    assert (out / 'chosen.txt').read_text().splitlines() == chosen
    # All that differ: one of the near-duplicates within the folder is passed over.
    run_command(*common, '--count', 50)
    printed = capfd.readouterr()
    assert '11 of 14' not in printed.out and '10 of 14 unlabeled photos chosen' in printed.out
    assert ', 1 of chosen ones' in printed.out
    assert 'warning: 50 photos were asked for' in printed.err
    names = [c.rsplit('/', 1)[1] for c in (out / 'chosen.txt').read_text().splitlines()]
    first = min(path.name for path in (photos / 'b').iterdir())
    assert len({'again.jpg', first} & set(names)) == 1


def test_a_detector_and_no_labels(things, tmp_path, capfd, monkeypatch):
    folder, _, _, photos = things
    out = tmp_path / 'out'
    common = ('select', '--unlabeled', photos, '--out', out, '--size', 112, '--count', 4,
              '--checkpoint', folder / 'a.pth', '--device', 'cpu')  # fmt: skip
    run_command(*common)
    assert 'weights of a.pth' in capfd.readouterr().out
    rows = read_csv(out / 'chosen.csv')
    assert rows[0]['distance'] == '' and float(rows[1]['distance']) > 0
    assert all(0 < float(row['uncertainty']) <= 1 for row in rows)
    monkeypatch.setattr(
        'mmdet_dinov2.inference.detector.Detector._from_file',
        lambda *args: pytest.fail('detected again'),
    )
    run_command(*common)
    assert read_csv(out / 'chosen.csv') == rows
    run_command(*common, '--no-uncertainty')
    assert read_csv(out / 'chosen.csv')[0]['uncertainty'] == ''


def fails(capfd, *args):
    with pytest.raises(SystemExit) as caught:
        run_command('select', *args)
    assert caught.value.code == 1
    return capfd.readouterr().err


def test_input_that_cannot_be_used(things, tmp_path, capfd):
    folder, config, data, photos = things
    out = ('--out', tmp_path / 'out')
    text = fails(capfd, '--unlabeled', tmp_path / 'nowhere', *out)
    assert f'{tmp_path}/nowhere does not exist' in text
    (tmp_path / 'empty').mkdir()
    assert 'empty has no photos' in fails(capfd, config, '--unlabeled', tmp_path / 'empty', *out)
    text = fails(capfd, config, '--unlabeled', photos, '--count', -1, *out)
    assert 'at least 0, but is -1' in text
    text = fails(capfd, config, '--unlabeled', photos, '--size', 0, *out)
    assert 'the size must be at least 1, but is 0' in text
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken/a.jpg').write_bytes(b'no image')
    text = fails(capfd, config, '--unlabeled', tmp_path / 'broken', *out)
    assert 'none of the photos in' in text and not (tmp_path / 'out/chosen.txt').exists()
    text = fails(
        capfd, '--unlabeled', photos, '--checkpoint', folder / 'a.pth', *out, '--cfg-options',
        'model.backbone.patch_size=8',
    )  # fmt: skip
    assert 'options override a config' in text
    text = fails(capfd, config, '--unlabeled', photos, '--checkpoint', folder / 'b.pth', *out)
    assert 'b.pth' in text


def test_an_output_folder_inside_of_the_photos(things, tmp_path):
    folder, config, _, photos = things
    (tmp_path / 'photos').mkdir()
    for path in sorted((photos / 'b').iterdir())[:3]:
        shutil.copy(path, tmp_path / 'photos')
    out = tmp_path / 'photos/out'
    common = ('select', config, '--unlabeled', tmp_path / 'photos', '--out', out, '--size', 56)
    for _ in range(2):  # the sheet of the first call is no photo
        run_command(*common)
        assert len((out / 'chosen.txt').read_text().splitlines()) == 3
    # Photos beside the lists are photos.
    out = tmp_path / 'photos'
    run_command(*common[:5], out, *common[6:])
    assert len((out / 'chosen.txt').read_text().splitlines()) == 3
    assert (out / 'chosen.jpg').is_file()
    # No sheet of an earlier call lies beside an empty list.
    run_command(*common[:5], out, *common[6:], '--count', 0)
    assert not (out / 'chosen.txt').read_text() and not (out / 'chosen.jpg').exists()


def test_the_uncertainty_of_scores():
    assert score_uncertainty(np.array([0.5, 0.5, 0.01])) == pytest.approx(1)
    assert score_uncertainty(np.array([1.0, 1.0])) == pytest.approx(0, abs=1e-9)
    assert score_uncertainty(np.array([0.04])) == score_uncertainty(np.array([])) == 0
    # Of 0.25: 0.25 * 2 + 0.75 * log2(4 / 3) bits.
    expected = (1 + 0.5 + 0.75 * np.log2(4 / 3)) / 2
    assert score_uncertainty(np.array([0.25, 0.5])) == pytest.approx(expected)
    assert score_uncertainty(np.array([0.9])) < score_uncertainty(np.array([0.6]))
