"""Records on disk: appended, found again, cut off where a process was killed."""

import os

import numpy as np
import pytest

from mmdet_dinov2.data.record_file import RecordFile, file_key

DTYPE = np.dtype([('value', np.float32, 3), ('byte', np.uint8)])


def records(*values):
    return np.array([((value,) * 3, value) for value in values], DTYPE)


def test_records_are_found_again(tmp_path):
    with RecordFile(tmp_path / 'a/b', DTYPE) as file:
        assert len(file.records()) == 0 and file.places(['a']).tolist() == [-1]
        file.append(['a', 'ü', '\\udcff'], records(1, 2, 3))
        file.append(['d'], records(4))
    with RecordFile(tmp_path / 'a/b', DTYPE) as file:
        assert 'ü' in file and 'x' not in file
        places = file.places(['d', 'x', 'ü', '\\udcff'])
        assert places.tolist() == [3, -1, 1, 2]
        assert file.records()['value'][places[[0, 2]]].tolist() == [[4.0] * 3, [2.0] * 3]


@pytest.mark.parametrize(('name', 'count'), [('records.bin', 1), ('keys.txt', 2)])
def test_what_a_killed_process_wrote_in_part_is_cut_off(tmp_path, name, count):
    with RecordFile(tmp_path, DTYPE) as file:
        file.append(['a', 'b', 'c'], records(1, 2, 3))
    path = tmp_path / name
    # In the middle of the second record, or of the third key.
    os.truncate(path, DTYPE.itemsize + 2 if name == 'records.bin' else len('a\nb\nc'))
    with RecordFile(tmp_path, DTYPE) as file:
        assert len(file.records()) == count and 'c' not in file
        file.append(['c'], records(9))
    with RecordFile(tmp_path, DTYPE) as file:
        assert len(file.records()) == count + 1
        assert file.records()['byte'][file.places(['a', 'c'])].tolist() == [1, 9]


def test_the_key_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / 'a\nb.jpg'
    path.write_bytes(b'1')
    key = file_key(path)
    assert '\n' not in key and file_key(path) == key
    (tmp_path / 'link').symlink_to(path)
    assert file_key(tmp_path / 'link') == key
    path.write_bytes(b'22')
    assert file_key(path) != key
    with pytest.raises(FileNotFoundError):
        file_key(tmp_path / 'none')
