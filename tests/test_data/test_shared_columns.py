"""Columns that processes share: who reads, who waits, what is left, and what is never trusted."""

import copy
import functools
import json
import multiprocessing.util
import os
import pickle
import resource
import signal
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mmdet_dinov2.data import annotation_file, shared_columns
from mmdet_dinov2.data.annotation_file import read_annotations
from mmdet_dinov2.data.shared_columns import SharedColumns, map_columns, read_once, share_columns
from mmdet_dinov2.errors import InputError

from ..columns import columns_of_entries
from .helpers import coco_content

pytestmark = pytest.mark.skipif(
    not os.path.isdir('/proc/self/fd'), reason='columns are shared where there is /proc'
)
KEY = ('some file',)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the small files; that for temporary files is empty otherwise."""
    (tmp_path / 'tmp').mkdir()
    # Chosen once for a process: sockets need a short path.
    multiprocessing.util.get_temp_dir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'tmp'))
    for name in shared_columns._RUN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / 'tmp' / f'mmdet_dinov2-{os.getuid()}'


@pytest.fixture
def columns():
    content = coco_content(num_images=5)
    content['annotations'][1].update(segmentation=[[1, 2, 3, 4, 5, 6]], category_id=98, id='ä')
    content['annotations'][2].update(image_id='?')
    return columns_of_entries(
        'a.json', content['images'], content['categories'], content['annotations'], True
    )


def entries(columns):
    return (
        [columns.image(index) for index in range(columns.num_images)],
        columns.annotations(np.arange(columns.num_annotations)),
        columns.categories,
        columns.derived,
        columns.path,
        [columns.annotations_of(index).tolist() for index in range(columns.num_images)],
    )


@contextmanager
def process(work):
    """Runs a function in a process forked from this one; yields a function that waits for it.

    That function returns what the function returned, or the exception that it raised, as text; an
    empty text if the process was killed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            text = repr(work())
        except BaseException as error:
            text = f'{type(error).__name__}: {error}'
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)

    @functools.cache
    def result():
        with os.fdopen(os.dup(reading)) as pipe:
            return pipe.read()

    result.pid = pid
    try:
        yield result
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def state_of(folder):
    """What is written in the only small file."""
    try:
        (path,) = folder.iterdir()
        return json.loads(path.read_text())['state']
    except (OSError, ValueError):
        return None


def waits(pid):
    """Returns whether a process waits for a lock."""
    return any(f' {pid} ' in line and '->' in line for line in open('/proc/locks'))


def never():
    raise AssertionError('nobody should read')


def test_they_are_the_same_in_memory_that_is_shared(columns):
    shared = share_columns(columns)
    assert entries(shared) == entries(columns) and isinstance(shared, SharedColumns)
    mapped = map_columns(shared.place)
    assert entries(mapped) == entries(columns)
    for found in (shared, mapped):
        with pytest.raises(ValueError, match='read-only'):
            found.boxes[0] = 7
    assert copy.deepcopy(shared) is shared
    # Outside of the start of a process, all of it is pickled.
    assert type(pickle.loads(pickle.dumps(shared))) is not SharedColumns
    assert entries(pickle.loads(pickle.dumps(shared))) == entries(columns)
    # No image, no annotation.
    empty = columns_of_entries('a.json', [], [], None)
    assert entries(share_columns(empty)) == entries(empty)


def test_a_process_that_is_started_maps_them(columns, monkeypatch):
    """As multiprocessing pickles datasets for processes by forkserver and spawn."""
    many = columns_of_entries('a.json', [dict(id=i, file_name='a') for i in range(9999)], [], [])
    shared = share_columns(many)
    monkeypatch.setattr(multiprocessing.context, 'get_spawning_popen', lambda: 'a process')
    pickled = pickle.dumps(shared)
    assert len(pickled) < 1000

    def work():
        mapped = pickle.loads(pickled)
        return mapped.place.inode, mapped.num_images

    with process(work) as result:
        assert result() == repr((shared.place.inode, 9999))


class Boxes:
    """A dataset of the boxes of an annotation file, for a dataloader."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns.boxes)

    def __getitem__(self, index):
        return os.getpid(), self.columns.place.inode, float(self.columns.boxes[index].sum())


@pytest.mark.slow
@pytest.mark.parametrize('method', ['fork', 'forkserver', 'spawn'])
def test_loading_processes_map_them(columns, method):
    shared = share_columns(columns)
    loader = DataLoader(
        Boxes(shared), num_workers=2, batch_size=None, multiprocessing_context=method
    )
    found = list(loader)
    assert {inode for _, inode, _ in found} == {shared.place.inode}
    assert len({pid for pid, _, _ in found} - {os.getpid()}) == 2
    assert [value for *_, value in found] == columns.boxes.sum(axis=1).tolist()


def test_one_reads_and_others_wait_and_map(columns, tmp_path):
    def first():
        def read():
            (tmp_path / 'reading').touch()
            wait_until(lambda: waits(second_pid()))
            return columns

        found = read_once('a.json', KEY, read)
        wait_until((tmp_path / 'done').exists)
        return found.place.inode

    def second_pid():
        return int((tmp_path / 'second').read_text() or -1)

    def second():
        (tmp_path / 'second').write_text(str(os.getpid()))
        found = read_once('a.json', KEY, never)
        assert entries(found) == entries(columns)
        (tmp_path / 'done').touch()
        return found.place.inode

    (tmp_path / 'second').touch()
    with process(first) as one:
        wait_until((tmp_path / 'reading').exists)
        with process(second) as two:
            assert one() == two() and two().isdigit()


def test_a_reader_that_dies_ends_the_run_with_a_sentence(folder, monkeypatch):
    monkeypatch.setenv('MASTER_PORT', '29500')
    with process(lambda: read_once('a.json', KEY, lambda: time.sleep(60))) as reader:
        wait_until(lambda: state_of(folder) == 'reading')
        with process(lambda: read_once('a.json', KEY, never)) as other:
            wait_until(lambda: waits(other.pid))
            os.kill(reader.pid, signal.SIGKILL)
            message = other()
    assert message.startswith(f"InputError: process {reader.pid}, which was reading 'a.json' for ")
    assert 'ended before it was done' in message and not message.endswith('.')


def test_a_reader_of_a_different_run_that_dies_is_replaced(columns, folder, monkeypatch):
    with process(lambda: read_once('a.json', KEY, lambda: time.sleep(60))) as reader:
        wait_until(lambda: state_of(folder) == 'reading')
        monkeypatch.setenv('MASTER_PORT', '29500')
        with process(lambda: read_once('a.json', KEY, lambda: columns).num_images) as other:
            wait_until(lambda: waits(other.pid))
            os.kill(reader.pid, signal.SIGKILL)
            assert other() == '5'


def test_what_a_killed_process_left_is_not_trusted(columns, folder, monkeypatch):
    monkeypatch.setenv('MASTER_PORT', '29500')
    with process(lambda: read_once('a.json', KEY, lambda: time.sleep(60))) as reader:
        wait_until(lambda: state_of(folder) == 'reading')
        os.kill(reader.pid, signal.SIGKILL)
        assert reader() == ''
    # Who did not wait for it starts again: the launcher may have restarted the run.
    assert read_once('a.json', KEY, lambda: columns).num_images == 5


def test_who_cannot_read_tells_why_to_all(folder):
    def fail():
        raise InputError('the file is broken')

    with pytest.raises(InputError, match='broken'):
        read_once('a.json', KEY, fail)
    assert state_of(folder) == 'failed'
    with pytest.raises(InputError, match='broken'):
        read_once('a.json', KEY, fail)


@pytest.mark.parametrize(
    'damage',
    [
        lambda found: '',
        lambda found: '{"state": "shared", "pl',
        lambda found: '5',
        lambda found: json.dumps(dict(found, place=dict(found['place'], size=7))),
        lambda found: json.dumps(dict(found, place=dict(found['place'], inode=1))),
        lambda found: json.dumps(dict(found, place=dict(found['place'], fd=0))),
        lambda found: json.dumps(dict(found, place=dict(found['place'], fd=9999))),
        lambda found: json.dumps(dict(found, place=dict(found['place'], pid=2**30))),
    ],
)
def test_a_place_that_is_not_that_of_columns_is_not_trusted(columns, folder, damage):
    first = read_once('a.json', KEY, lambda: columns)
    assert read_once('a.json', KEY, never).place.inode == first.place.inode
    (path,) = folder.iterdir()
    path.write_text(damage(json.loads(path.read_text())))
    again = read_once('a.json', KEY, lambda: columns)
    assert again.place.inode != first.place.inode


@pytest.fixture
def said(monkeypatch):
    """What is logged."""
    lines = []
    monkeypatch.setattr(shared_columns, 'print_log', lambda text, **kwargs: lines.append(text))
    return lines


def test_a_full_disk_costs_the_sharing_only(columns, folder, said):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
        found = read_once('a.json', KEY, lambda: columns)
        return type(found).__name__, entries(found) == entries(columns), state_of(folder), said

    with process(work) as result:
        name, same, state, (line,) = eval(result())
    assert (name, same, state) == ('AnnotationColumns', True, 'unshared')
    assert line.startswith(
        "the annotations of 'a.json' cannot be shared ([Errno 27] File too large"
    )
    assert f'make room in {folder.parent}, or set TMPDIR' in line
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize('case', ['file', 'others may write', 'gone', 'link'])
def test_without_a_folder_of_their_own_every_process_keeps_its_own(
    columns, folder, said, case, tmp_path, monkeypatch
):
    if case == 'file':
        folder.touch()
    elif case == 'others may write':
        folder.mkdir()
        folder.chmod(0o777)
    elif case == 'link':
        (tmp_path / 'elsewhere').mkdir()
        folder.symlink_to(tmp_path / 'elsewhere')
    else:
        monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'nowhere'))
    assert read_once('a.json', KEY, lambda: columns) is columns
    assert len(said) == 1 and 'every process keeps its own' in said[0]


def test_nothing_is_left_of_a_process_that_ends(columns, folder, tmp_path):
    """With a name there is only the small file, also while the columns are shared."""

    def work():
        shared = read_once('a.json', KEY, lambda: columns)
        assert shared.num_images == 5
        files = [path for path in folder.parent.rglob('*') if path.is_file()]
        (path,) = folder.iterdir()
        shared_columns._remove_own(path, os.getpid() + 1)  # of a process that was forked
        assert files == [path] and path.exists()
        shared_columns._remove_own(path, os.getpid())
        return path.exists()

    with process(work) as result:
        assert result() == 'False'
    # What a killed process left goes with the next start.
    with process(lambda: read_once('a.json', ('other',), lambda: columns) and None) as result:
        assert result() == 'None'
        os.kill(result.pid, signal.SIGKILL)
    assert len(list(folder.iterdir())) == 1
    read_once('a.json', KEY, lambda: columns)
    assert len(list(folder.iterdir())) == 1


def test_only_files_that_are_worth_it_are_shared(data, monkeypatch):
    path = str(data.path('train'))
    assert not isinstance(read_annotations(path), SharedColumns)
    monkeypatch.setattr(annotation_file, '_SHARED_SIZE', 100)
    assert isinstance(read_annotations(path), SharedColumns)
    # A path of a different spelling is the same file, with its own name in messages.
    other = os.path.join(os.path.dirname(path), '.', 'train.json')
    inode = read_annotations(path).place.inode
    assert read_annotations(other).place.inode == inode and read_annotations(other).path == other


def test_a_changed_file_is_not_that_of_another_process(data, monkeypatch):
    monkeypatch.setattr(annotation_file, '_SHARED_SIZE', 100)
    path = data.path('train')
    with process(lambda: (read_annotations(str(path)), time.sleep(60))):
        wait_until(lambda: (f := shared_columns._private_folder()) and state_of(f) == 'shared')
        path.write_text(path.read_text().replace('40', '410'))
        assert read_annotations(str(path)).widths[0] == 410


@pytest.mark.parametrize(
    ('variables', 'first'),
    [
        ({}, True),
        (dict(LOCAL_RANK='0', RANK='4'), True),
        (dict(LOCAL_RANK='1', RANK='5'), False),
        (dict(SLURM_LOCALID='0'), True),
        (dict(SLURM_LOCALID='2'), False),
        (dict(OMPI_COMM_WORLD_LOCAL_RANK='1'), False),
    ],
)
def test_the_first_process_of_a_machine(monkeypatch, variables, first):
    for name in shared_columns._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert shared_columns.is_first_of_machine() == first


def test_the_small_files_are_private(columns, folder):
    read_once('a.json', KEY, lambda: columns)
    (path,) = folder.iterdir()
    assert Path(folder).stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o600
