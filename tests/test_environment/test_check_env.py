"""Problems of an environment, and the command that fixes each."""

import os
import subprocess
import sys
from collections import namedtuple

import pytest

from mmdet_dinov2.environment import explain_import_error, system
from mmdet_dinov2.environment.packages import locked_versions, needed_packages, satisfies
from mmdet_dinov2.environment.probe import which_attention
from mmdet_dinov2.environment.system import check_system

from .stubs import MODULES, ROOT, VERSIONS, make_environment, run_in, torch_with

EMPTY = (dict.fromkeys(VERSIONS), dict.fromkeys(MODULES))
NO_OPS = "raise ModuleNotFoundError(\"No module named 'mmcv._ext'\", name='mmcv._ext')"
SYMBOL = "raise ImportError('/x/mmcv/_ext.cpython-311.so: undefined symbol: _ZN3c10')"
NONE_TYPE = 'raise TypeError("\'NoneType\' object is not callable")'
NO_PKG = "raise ModuleNotFoundError(\"No module named 'pkg_resources'\", name='pkg_resources')"
NO_GL = "raise ImportError('libGL.so.1: cannot open shared object file: No such file')"
MMCV = "raise AssertionError('MMCV==2.1.0 is used but incompatible. Please install mmcv>=2.3')"
CRASH = 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)'
REINSTALL = 'install --no-cache-dir --no-deps --force-reinstall onedl-mmcv'

# Name: (versions, modules, what the report says, what the command for it contains)
ERRORS = {
    'nothing installed': (*EMPTY, 'not installed: .*onedl-mmdetection', f'make -C {ROOT} env'),
    'one package missing': (
        {'pycocotools': None},
        {},
        'not installed: pycocotools',
        'lock.txt pycocotools',
    ),
    'no operators': ({}, {'mmcv.ops': NO_OPS}, 'without its compiled operators', 'make -C'),
    'other torch': (
        {},
        {'mmcv.ops': SYMBOL},
        'compiled for a different version of torch',
        REINSTALL,
    ),
    'crash': ({}, {'mmcv.ops': CRASH}, '`import mmcv.ops`: .* ended with signal 11', 'make -C'),
    'transformers 5': (
        {'transformers': '5.0.1'},
        {'mmpretrain.models': NONE_TYPE},
        'transformers 5.0.1: `import mmpretrain.models` fails with version 5',
        "lock.txt 'transformers<5'",
    ),
    'setuptools 82': (
        {'setuptools': '82.0.0'},
        {'mmengine': NO_PKG},
        'setuptools 82.0.0: later versions lack pkg_resources',
        "lock.txt 'setuptools<81'",
    ),
    'original beside the fork': (
        {'mmcv': '2.1.0'},
        {},
        'mmcv 2.1.0 is installed beside onedl-mmcv: they share files',
        'uninstall -y mmcv && .*--force-reinstall onedl-mmcv',
    ),
    'original instead of the fork': (
        {'onedl-mmdetection': None, 'mmdet': '3.3.0'},
        {},
        'mmdet 3.3.0 is installed instead of onedl-mmdetection',
        'uninstall -y mmdet && .*onedl-mmdetection',
    ),
    'torch too old': ({'torch': '2.9.1'}, {}, 'torch 2.9.1 .* >=2.10 is needed', 'make -C'),
    'mmcv too old': (
        {},
        {'mmdet.models': MMCV},
        'OpenMMLab libraries are not compatible',
        'make -C',
    ),
    'no libGL': ({}, {'cv2': NO_GL}, 'OpenCV does not load', 'apt-get install -y libgl1'),
    'operators for another CUDA': (
        {},
        {
            'torch': torch_with(('H200', 9)),
            'mmcv.ops': "def get_compiling_cuda_version(): return '12.4'",
        },
        'compiled for CUDA 12.4, torch for 13.0',
        REINSTALL,
    ),
}


@pytest.mark.parametrize('case', ERRORS, ids=lambda case: case.replace(' ', '_'))
def test_what_stops_a_training_comes_with_its_remedy(tmp_path, case):
    versions, modules, what, remedy = ERRORS[case]
    result = run_in(make_environment(tmp_path, versions, modules), 'check_env')
    assert result.returncode == 1, result.stdout + result.stderr
    assert 'Traceback' not in result.stdout + result.stderr
    with pytest.raises(AssertionError, match=rf'error:\s+[^\n]*{what}[^\n]*\n\s+-> [^\n]*{remedy}'):
        raise AssertionError(result.stdout)
    assert 'to fix before training can start' in result.stdout


def test_a_sound_environment(tmp_path):
    site = make_environment(tmp_path, {}, {'torch': torch_with(('H200', 9))})
    result = run_in(site, 'check_env', '--work-dir', tmp_path / 'new/work')
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'this environment is ready for training' in result.stdout
    assert 'error' not in result.stdout
    assert 'GPU 0: H200, 80 GiB, fp32, fp16, bf16 (--amp)' in result.stdout
    assert 'mmcv operators: CPU\n' in result.stdout
    assert f'GiB free for {tmp_path / "new/work"}' in result.stdout
    assert not (tmp_path / 'new').exists()


def test_the_environment_of_the_tests():
    """The check finds no errors in the environment that runs this test."""
    from mmdet_dinov2.environment.packages import check_packages

    assert [problem for problem in check_packages() if problem.severity == 'error'] == []


def test_warnings_are_not_errors(tmp_path):
    modules = {'torch': torch_with(('Tesla V100', 7)), 'triton': 'raise ImportError'}
    site = make_environment(tmp_path, {'torch': '2.10.0+cu130', 'numpy': '2.4.0'}, modules)
    result = run_in(site, 'check_env')
    assert result.returncode == 0, result.stdout
    assert 'untested versions: numpy 2.4.0 (tested: 2.2.6), torch' in result.stdout
    assert 'GPU 0: Tesla V100, 80 GiB, fp32, fp16\n' in result.stdout
    assert 'optim_wrapper.type=AmpOptimWrapper' in result.stdout
    assert 'deformable attention: PyTorch, which is slow' in result.stdout


TOOLS = sorted({path.stem for path in (ROOT / 'tools').glob('*.py')} - {'check_env', 'checkout'})


@pytest.mark.parametrize('tool', TOOLS)
def test_tools_end_with_a_sentence_instead_of_a_traceback(tmp_path, tool):
    result = run_in(make_environment(tmp_path, *EMPTY), tool, 'a', 'b')
    assert result.returncode == 1 and result.stdout == ''
    (line,) = result.stderr.splitlines()
    assert line.startswith('error: mmdet_dinov2 cannot be imported: ')
    assert f'run: make -C {ROOT} env' in line and 'tools/check_env.py' in line


def test_tests_end_with_a_sentence_instead_of_a_traceback(tmp_path):
    (tmp_path / 'cv2.py').write_text(NO_GL)
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-k', 'nothing'],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    text = result.stdout + result.stderr
    assert result.returncode != 0
    assert 'OpenCV does not load' in text and 'apt-get' in text
    assert 'Traceback' not in text and len(text.splitlines()) <= 6, text


def test_the_disk_is_looked_at(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')

    def found(free):
        monkeypatch.setattr(system.shutil, 'disk_usage', lambda path: usage(0, 0, free))
        return [p for p in check_system(tmp_path / 'work') if 'GiB free' in p.what][0]

    assert found(2**28).severity == 'error' and '--work-dir' in found(2**28).remedy
    assert found(2**31).severity == 'warning' and 'max_keep_ckpts' in found(2**31).remedy
    assert found(2**40).severity == 'info'
    monkeypatch.setattr(system.os, 'access', lambda path, mode: False)
    (problem,) = [p for p in check_system(tmp_path) if p.severity == 'error']
    assert 'is not writable' in problem.what


def test_the_interpreter_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(system, '_PYTHONS', ((3, 5), (3, 6)))
    monkeypatch.setattr(system.importlib.util, 'find_spec', lambda name: None)
    found = {p.what: p.remedy for p in check_system(tmp_path)}
    (version,) = [what for what in found if '3.5 to 3.6 are supported' in what]
    assert 'PYTHON=python3.6' in found[version]
    (venv,) = [what for what in found if 'lacks venv and ensurepip' in what]
    assert '-venv' in found[venv]


@pytest.mark.parametrize(
    ('facts', 'expected'),
    [
        (dict(), 'PyTorch, on the CPU'),
        (dict(gpus=[1], attention='triton (it compiles)'), 'triton (it compiles)'),
        (dict(gpus=[1], mmcv_cuda='13.0'), 'the CUDA operator of mmcv'),
        (dict(gpus=[1], mmcv_cuda='not available'), 'PyTorch, which is slow'),
    ],
)
def test_the_deformable_attention_that_will_run(facts, expected):
    assert which_attention(facts).startswith(expected)


@pytest.mark.parametrize(
    ('version', 'bounds', 'expected'),
    [
        ('2.11.0+cu130', '>=2.10,<2.12', True),
        ('2.9.1', '>=2.10', False),
        ('2.12', '<2.12', False),
        ('2.12.0rc1', '<2.12', False),
        ('5', '<5', False),
        ('4.57.6', '<5', True),
        ('3.0', '==3', True),
        ('3.0', '!=3', False),
        ('1', '', True),
    ],
)
def test_bounds(version, bounds, expected):
    assert satisfies(version, bounds) == expected


def test_requirements_are_read():
    assert needed_packages()['torch'] == '>=2.10'
    assert needed_packages()['onedl-mmcv'] == '>=2.3.6,<2.4'
    assert locked_versions()['matplotlib'] == {'3.11.2', '3.10.9'}
    for name, bounds in needed_packages().items():
        assert all(satisfies(version, bounds) for version in locked_versions()[name]), name


def test_other_missing_modules_are_named():
    text = explain_import_error(ModuleNotFoundError("No module named 'cv2'", name='cv2'))
    assert '`import cv2` fails' in text and 'opencv-python-headless' in text
    text = explain_import_error(ImportError('something new'))
    assert 'are not compatible (something new); run: ' in text
