"""The model that an argument names."""

import os

import pytest

from mmdet_dinov2 import cli
from mmdet_dinov2.config.files import find_config
from mmdet_dinov2.errors import InputError


def test_a_config_or_a_work_folder_names_its_checkpoint(tmp_path):
    work = tmp_path / 'work'
    work.mkdir()
    config, best, last = work / 'tiny.py', work / 'best_coco_bbox_mAP_1.pth', work / 'epoch_2.pth'
    config.write_text('model = dict()\n')
    (work / 'last_checkpoint').write_text(str(last))
    for path in (best, last):
        path.touch()
    assert cli.find_model(str(config)) == (str(config), str(best))
    assert cli.find_model(str(work)) == (None, str(best))
    best.unlink()
    assert cli.find_model(str(work)) == (None, str(last))
    assert cli.find_model(str(config), 'b.pth') == (str(config), 'b.pth')
    assert cli.find_model('a.pth') == (None, 'a.pth')


def test_a_config_elsewhere_names_its_work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ('configs', 'work_dirs/tiny', 'mine'):
        os.makedirs(folder)
    for path in ('work_dirs/tiny/best_1.pth', 'mine/best_2.pth'):
        (tmp_path / path).touch()
    config = tmp_path / 'configs/tiny.py'
    config.write_text('model = dict()\n')
    assert cli.find_model(str(config)) == (str(config), 'work_dirs/tiny/best_1.pth')
    config.write_text("work_dir = 'mine'\n")
    assert cli.find_model(str(config)) == (str(config), 'mine/best_2.pth')


@pytest.mark.parametrize('suffix', ['', '.py'])
def test_a_name_of_a_config_finds_it(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    name = f'dino_dinov2_b_12ep_published{suffix}'
    config, checkpoint = cli.find_model(name, 'a.pth')
    assert config == find_config('dino_dinov2_b_12ep_published') and checkpoint == 'a.pth'
    with pytest.raises(FileNotFoundError, match='work_dirs/dino_dinov2_b_12ep_published'):
        cli.find_model(name)


def test_models_that_cannot_be_found(tmp_path):
    with pytest.raises(InputError, match=r'both a\.pth and --checkpoint b\.pth'):
        cli.find_model('a.pth', 'b.pth')
    with pytest.raises(FileNotFoundError, match='config none.py does not exist'):
        cli.find_model('none.py')
    with pytest.raises(FileNotFoundError, match=r'there is no best_\*.pth and no last_checkpoint'):
        cli.find_model(str(tmp_path))
