"""Training and testing on a folder of data with the recipe for own data and a tiny model."""

import json

import pytest
from mmengine.config import Config

from ..test_data.data_sets import write_coco, write_yolo
from ..tools import ROOT, TINY_OPTIONS, failure_of, run_tool

CONFIG = ROOT / 'configs/dino_dinov2_s_ft.py'
# Few images, so that the tests are quick.
FEW = (
    'min_epoch_steps=1',
    'train_dataloader.dataset.indices=16',
    'val_dataloader.dataset.indices=8',
    'test_dataloader.dataset.indices=8',
)


def train(data, work, *options, arguments=()):
    options = ('--cfg-options', *TINY_OPTIONS, *options)
    run_tool('train', CONFIG, '--data', data, '--work-dir', work, *arguments, *options)
    return Config.fromfile(work / CONFIG.name)


def metrics(work):
    lines = [
        json.loads(line)
        for path in sorted(work.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    return [line for line in lines if 'coco/bbox_mAP' in line]


@pytest.fixture(scope='module')
def bccd(tmp_path_factory):
    """The BCCD dataset beside the repository, and the work folder of a training on it."""
    data = ROOT.parent / 'shared/data/bccd'
    if not data.is_dir():
        pytest.skip('needs the folder ../shared with real data')
    work = tmp_path_factory.mktemp('bccd') / 'work'
    cfg = train(data, work, *FEW)
    return data, work, cfg


def test_bccd_trains_from_its_folder(bccd):
    data, work, cfg = bccd
    assert cfg.model.bbox_head.num_classes == 3
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.metainfo.classes == ('RBC', 'WBC', 'Platelets')
        assert dataset.ann_file == f'annotations/{split}.json' and dataset.data_root == f'{data}/'
    assert cfg.val_evaluator.ann_file == str(data / 'annotations/val.json')
    assert len(metrics(work)) == 1 and 'coco/WBC_precision' in metrics(work)[0]
    assert not (work / 'data').exists()


def test_the_saved_config_trains_and_tests_without_the_folder(bccd, capfd):
    _, work, _ = bccd
    saved = work / CONFIG.name
    run_tool('train', saved, '--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    assert (work / 'epoch_2.pth').is_file()
    # The first evaluation is repeated: its checkpoint was saved before it.
    assert [line['step'] for line in metrics(work)] == [1, 1, 2]
    run_tool('test', saved, work / 'epoch_2.pth', '--work-dir', work / 'test')
    printed = capfd.readouterr()
    assert '| WBC' in printed.out + printed.err


def test_a_checkpoint_is_tested_on_a_folder(bccd, tmp_path, capfd):
    data, work, _ = bccd
    run_tool(
        'test', CONFIG, sorted(work.glob('epoch_*.pth'))[-1], '--data', data,
        '--work-dir', tmp_path, '--cfg-options', *TINY_OPTIONS, *FEW,
    )  # fmt: skip
    printed = capfd.readouterr()
    assert f'data: test: 72 images in {data}/images' in printed.out
    assert '| Platelets' in printed.out + printed.err


def test_a_folder_with_a_test_split_alone(bccd, tmp_path, capfd):
    """It can be tested; a training does not go on with the data of the config."""
    data, work, _ = bccd
    (tmp_path / 'data/annotations').mkdir(parents=True)
    (tmp_path / 'data/annotations/test.json').symlink_to(data / 'annotations/test.json')
    (tmp_path / 'data/images').symlink_to(data / 'images')
    saved, new = work / CONFIG.name, tmp_path / 'work'
    arguments = ('--data', tmp_path / 'data', '--work-dir', new)
    error = failure_of(capfd, 'train', saved, *arguments)
    assert f'{tmp_path}/data has no train split, only test (annotations/test.json)' in error
    assert not new.exists()
    run_tool(
        'test', saved, sorted(work.glob('epoch_*.pth'))[-1], *arguments,
        '--cfg-options', 'test_dataloader.dataset.indices=8',
    )  # fmt: skip
    printed = capfd.readouterr()
    assert '| Platelets' in printed.out + printed.err
    (new_config,) = new.glob('*.py')
    assert 'train.json' not in new_config.read_text() and str(data) not in new_config.read_text()


def test_bccd_as_yolo_trains(bccd, tmp_path, capfd):
    data, _, _ = bccd
    contents = {
        split: dict(
            json.loads((data / f'annotations/{split}.json').read_text()), folder=data / 'images'
        )
        for split in ('train', 'val', 'test')
    }
    write_yolo(tmp_path / 'yolo', contents)
    work = tmp_path / 'work'
    cfg = train(tmp_path / 'yolo', work, *FEW)
    assert 'data: train: 205 images in ' in capfd.readouterr().out
    assert cfg.train_dataloader.dataset.metainfo.classes == ('RBC', 'WBC', 'Platelets')
    assert cfg.train_dataloader.dataset.ann_file.startswith(str(work / 'data/train-'))
    assert cfg.train_dataloader.dataset.data_prefix.img == 'images/train/'
    assert len(metrics(work)) == 1


def test_a_few_images_are_split_and_repeated(tmp_path, capfd):
    """The learning rate is scaled to the batch size as in any other run."""
    write_coco(tmp_path / 'data/annotations.json', tmp_path / 'data/images', 5)
    cfg = train(
        tmp_path / 'data', tmp_path / 'work', 'min_epoch_steps=3', 'train_dataloader.batch_size=2',
        arguments=['--auto-scale-lr'],
    )  # fmt: skip
    printed = capfd.readouterr().out
    assert 'there is no val split: 1 of the 5 training images, drawn with seed 0' in printed
    assert 'data: the 4 training images are repeated 2 times' in printed
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'RepeatDataset' and dataset.times == 2
    records = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    losses = [
        line for path in records for line in path.read_text().splitlines() if '"loss"' in line
    ]
    assert len(losses) == 4


def test_a_folder_without_data_is_one_sentence(tmp_path, capfd):
    (tmp_path / 'music').mkdir()
    error = failure_of(capfd, 'train', CONFIG, '--data', tmp_path, '--work-dir', tmp_path / 'work')
    assert f"error: no dataset found in {tmp_path}: it holds 'music/', but no files" in error
    assert 'looked for COCO annotations' in error and 'data.yaml' in error
    assert not (tmp_path / 'work').exists()
    error = failure_of(capfd, 'train', CONFIG, '--data', tmp_path / 'none')
    assert 'none does not exist; check the path after --data' in error
