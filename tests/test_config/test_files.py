"""Configs that are found by their names."""

from pathlib import Path

import pytest

from mmdet_dinov2.config import files
from mmdet_dinov2.config.files import find_config, list_configs
from mmdet_dinov2.errors import MissingFileError


def test_a_name_finds_a_config_of_the_project_from_anywhere(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('dino_dinov2_s_ft', 'dino_dinov2_s_ft.py'):
        assert find_config(name) == str(root / 'configs/dino_dinov2_s_ft.py')
    # What the user has comes first.
    Path('dino_dinov2_s_ft.py').write_text('model = dict()')
    assert find_config('dino_dinov2_s_ft.py') == 'dino_dinov2_s_ft.py'
    assert find_config(Path('dino_dinov2_s_ft.py')) == 'dino_dinov2_s_ft.py'


def test_all_configs_are_listed(root):
    names = list_configs()
    assert 'dino_dinov2_quickstart' in names
    assert not any('_base_' in name for name in names)
    assert {name for name in names if '/' not in name} == {
        path.stem for path in (root / 'configs').glob('*.py')
    }


def test_a_wrong_name_is_one_sentence():
    with pytest.raises(MissingFileError, match='did you mean dino_dinov2_s_ft'):
        find_config('dino_dinov2_sft')


def test_an_installed_package_has_its_own_configs(tmp_path, monkeypatch):
    folder = tmp_path / '.mim/configs/vitdet'
    folder.mkdir(parents=True)
    (folder / 'some.py').touch()
    monkeypatch.setattr(files, '_PACKAGE', tmp_path)
    assert list_configs() == ['vitdet/some']
    assert find_config('vitdet/some') == str(folder / 'some.py')
