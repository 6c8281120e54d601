"""The wheel, as people install it: the package works without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from .tools import ROOT, TINY_CONFIG


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A folder with the contents of the wheel."""
    folder = tmp_path_factory.mktemp('wheel')
    # A copy: a build leaves folders beside the sources.
    source = folder / 'source'
    ignored = shutil.ignore_patterns('.*', '__pycache__', 'build', 'data', 'work_dirs', 'tests')
    shutil.copytree(
        ROOT,
        source,
        ignore=lambda path, names: ignored(path, names) if path == str(ROOT) else {'__pycache__'},
    )
    pip = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-q']
    subprocess.run([*pip, '-w', str(folder), str(source)], check=True)
    (wheel,) = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / 'site')
    return folder / 'site'


def run(site, *command, cwd):
    environment = dict(os.environ, PYTHONPATH=str(site), OMP_NUM_THREADS='1')
    result = subprocess.run(
        [sys.executable, '-m', *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_the_wheel_works_outside_of_the_checkout(site, tmp_path):
    assert (site / 'mmdet_dinov2_mmcv_ops.pth').read_text().startswith('import importlib')
    names = run(site, 'mmdet_dinov2', 'configs', cwd=tmp_path)
    assert 'dino_dinov2_s_ft\n' in names and str(site / 'mmdet_dinov2/.mim/configs') in names
    config = tmp_path / 'tiny.py'
    config.write_text(TINY_CONFIG.format(root=site / 'mmdet_dinov2/.mim', data=tmp_path / 'shapes'))
    log = run(site, 'mmdet_dinov2', 'train', 'tiny.py', cwd=tmp_path)
    assert 'coco/bbox_mAP' in log and str(ROOT) not in log
    run(site, 'mmdet_dinov2', 'predict', 'work_dirs/tiny', 'shapes/val', cwd=tmp_path)
    assert (tmp_path / 'predictions/predictions.csv').is_file()
