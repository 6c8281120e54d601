"""Memory of the processes that load data: shared annotations, and no growth."""

import gc
import json
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmdet_dinov2.data import generate_shapes
from mmdet_dinov2.data.seeded import SeededDataset, StepBatchSampler
from mmdet_dinov2.engine.hooks.loader_memory import (
    proportional_memory,
    return_freed_memory,
)

pytestmark = pytest.mark.skipif(
    proportional_memory(os.getpid()) is None, reason='only Linux reports shared pages by process'
)


def own_memory():
    """Resident memory in MiB that no other process shares."""
    return psutil.Process().memory_full_info().uss / 2**20


class Annotations:
    """The annotations of a dataset without its images; a sample is the memory of its process."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, item):
        self.dataset.get_data_info(item)
        return own_memory() if item in (0, len(self) - 1) else 0.0


@pytest.fixture(scope='module')
def large_file(tmp_path_factory):
    """An annotation file that takes about 15 MiB of memory and is quick to write."""
    path = tmp_path_factory.mktemp('data') / 'train.json'
    rng = np.random.default_rng(0)
    boxes = rng.uniform(1, 100, (40_000, 4)).tolist()
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=400, height=400) for i in range(1000)],
        annotations=[
            dict(id=i + 1, image_id=i % 1000, category_id=1, bbox=box)
            for i, box in enumerate(boxes)
        ],
        categories=[dict(id=1, name='cat')],
    )
    path.write_text(json.dumps(content))
    return path


def growth_of_a_worker(path, **kwargs):
    """Memory in MiB that a loading process takes for itself while it reads all annotations."""
    dataset = DATASETS.build(
        dict(
            type='ClassNameCocoDataset',
            ann_file=str(path),
            data_prefix=dict(img='.'),
            metainfo=dict(classes=('cat',)),
            **kwargs,
        )
    )
    # Else its collector goes over, and so copies, what the process had before.
    gc.collect()
    gc.freeze()
    wrapped = SeededDataset(Annotations(dataset))
    sampler = StepBatchSampler(range(len(wrapped)), batch_size=50)
    loader = DataLoader(
        wrapped, batch_sampler=sampler, num_workers=1, collate_fn=lambda batch: batch
    )
    memory = [value for batch in loader for value in batch]
    gc.unfreeze()
    return memory[-1] - memory[0]


def test_annotations_are_shared_by_processes(large_file):
    # Serialised annotations are one array, whose pages no process writes to. Objects are copied
    # page by page when their references are counted.
    shared = growth_of_a_worker(large_file)
    copied = growth_of_a_worker(large_file, serialize_data=False)
    print(f'own memory of a loading process: {shared:.1f} MiB, with objects {copied:.1f} MiB')
    assert copied > 5
    assert shared < copied / 5


def memory_of_no_file(pid):
    """Resident memory of a process in MiB, with its part of shared pages, without mapped files.

    Libraries are mapped by every program that uses them. The part of each grows when others end.
    """
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()[1:]
    kib = {key: int(value.split()[0]) for key, _, value in (line.partition(':') for line in lines)}
    return (kib['Pss'] - kib['Pss_File']) / 2**10


def memory_of_epochs(root, epochs, workers=2):
    """Memory in MiB of this process and of its loading processes at the end of each epoch."""
    dataset = DATASETS.build(
        dict(
            type='ShapesDataset',
            data_root=str(root),
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            generate=dict(num_train=48, num_val=1),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='RandomFlip', prob=0.5),
                dict(type='RandomChoiceResize', scales=[(140, 140), (168, 168)], keep_ratio=True),
                dict(type='PackDetInputs'),
            ],
        )
    )
    sampler = StepBatchSampler(range(len(dataset)), batch_size=4)
    loader = DataLoader(
        SeededDataset(dataset), batch_sampler=sampler, num_workers=workers,
        persistent_workers=True, collate_fn=pseudo_collate,
    )  # fmt: skip
    memory = []
    for epoch in range(epochs):
        sampler.start(epoch * len(sampler))
        batches = iter(loader)
        assert sum(len(batch['inputs']) for batch in batches) == 48
        processes = [memory_of_no_file(child.pid) for child in multiprocessing.active_children()]
        assert len(processes) >= workers
        memory.append((memory_of_no_file(os.getpid()), sum(processes)))
    return np.array(memory)


@pytest.mark.slow
def test_memory_is_steady_over_epochs(tmp_path):
    root = generate_shapes(tmp_path / 'shapes', num_train=48, num_val=1)
    # In a separate process: loading processes share the pages of the process that starts them, and
    # those of a large one, such as that of many tests, become their own little by little.
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, spawn, init_default_scope, ('mmdet',)) as process:
        memory = process.submit(memory_of_epochs, root, epochs=20).result()
    print('MiB here and in the loading processes:', memory[[0, 4, 9, 19]].round(1).tolist())
    # 15 epochs of 48 images: leaking one decoded image in a hundred would take more.
    growth = memory[-5:].mean(0) - memory[4:9].mean(0)
    assert (growth < 5).all(), memory.round(1)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_holes_between_used_blocks_are_returned():
    """Frees nine tenths of 100 MiB, in blocks too small to be mapped one by one."""
    blocks = [np.ones(2**16, np.uint8) for _ in range(1600)]
    kept = blocks[::10]
    before = own_memory()
    del blocks
    gc.collect()
    return_freed_memory()
    assert own_memory() < before - 60
    assert len(kept) == 160
