"""Packaging of mmdet_dinov2; `make env` installs it together with the tested set."""

import re
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build starts elsewhere

from mmdet_dinov2_mmcv_ops import write_pth  # noqa: E402

# What OpenMMLab's packages carry in their folder .mim, where configs are found by name.
MIM_FILES = ('configs', 'requirements', 'tools', 'model-index.yml')


def read_requirements(name):
    """The lines of requirements/<name>.txt without comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    lines = (line.split('#')[0].strip() for line in lines)
    return [line for line in lines if line]


def read_version():
    """The version without importing the package, which needs torch and mmdet."""
    text = (ROOT / 'mmdet_dinov2' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


def read_readme():
    """The README, if there is one: a build must not fail for the lack of it."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


class BuildWithConfigs(build_py):
    """Adds the configs, and the file by which every Python finds the operators for mmcv."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / 'mmdet_dinov2'
        for name in MIM_FILES:
            source, target = ROOT / name, package / '.mim' / name
            if source.is_dir():
                ignored = shutil.ignore_patterns('__pycache__')
                shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        write_pth(self.build_lib)


setup(
    name='mmdet_dinov2',
    version=read_version(),
    description="DINOv2 backbones for MMDetection's DINO detector",
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmdet_dinov2', 'mmdet_dinov2.*', 'mmdet_dinov2_mmcv_ops']),
    py_modules=['mmdet_dinov2_command'],
    cmdclass=dict(build_py=BuildWithConfigs),
    entry_points=dict(console_scripts=['mmdet_dinov2 = mmdet_dinov2_command:main']),
    package_data={'mmdet_dinov2.analysis': ['*.j2']},
    python_requires='>=3.10,<3.13',  # what onedl-mmcv and onedl-mmdetection name as supported
    # mmengine, mmcv, mmdet and mmpretrain are not listed: see requirements/mminstall.txt.
    install_requires=read_requirements('runtime'),
    extras_require={
        'export': read_requirements('export'),
        'large-images': read_requirements('large-images'),
        'openmmlab': read_requirements('mminstall'),
        'tests': read_requirements('tests'),
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
