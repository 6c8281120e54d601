"""Files from unknown sources never run code."""

import codecs
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmdet_dinov2.checkpoint import read_checkpoint, reading, state_dict_of
from mmdet_dinov2.errors import InputError


class ByReduce:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), 'w')


class Attribute:
    """Calls ``getattr(owner, name)`` when it is unpickled."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


class SecondState:
    """Sets the state of an object in the file a second time when it is unpickled."""

    def __init__(self, owner, name, state):
        self.owner, self.name, self.state = owner, name, state

    def __reduce__(self):
        return getattr, (self.owner, self.name), self.state


def test_code_by_reduce_is_refused(tmp_path):
    marker, path = tmp_path / 'marker', tmp_path / 'a.pth'
    torch.save(dict(state_dict=dict(a=torch.zeros(1)), x=ByReduce(marker)), path)
    with pytest.raises(InputError, match=r'wants to run code .*open.*--trust-checkpoint'):
        read_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), 'the file must be dangerous, or the test proves nothing'


def test_code_through_getattr_is_refused(tmp_path):
    """An admitted object gets a method as its ``__setstate__``; its next state is the argument."""
    marker, path = tmp_path / 'marker', tmp_path / 'a.pth'
    history = HistoryBuffer([1.0], [1])
    method = Attribute(np.arange(3.0), 'tofile')
    history.__dict__.update({'__setstate__': method, 'itself': history})
    torch.save(dict(x=SecondState(history, 'itself', str(marker))), path)
    with pytest.raises(InputError, match=r"attribute 'tofile'.*--trust-checkpoint"):
        read_checkpoint(path)
    assert not marker.exists()
    from mmengine.runner.checkpoint import get_torch_safe_globals

    with torch.serialization.safe_globals(get_torch_safe_globals()):
        torch.load(path, weights_only=True)
    assert marker.exists(), "mmengine's list admits the file, so the test is about something"


@pytest.mark.parametrize('name', ['__init__', '__class__', 'statistics', '_statistics_methods'])
def test_getattr_reaches_the_statistics_of_histories_only(tmp_path, name):
    path = tmp_path / 'a.pth'
    torch.save(dict(x=Attribute(HistoryBuffer, name)), path)
    with pytest.raises(InputError, match='wants to run code'):
        read_checkpoint(path)


def test_what_mmengine_saves_is_read(tmp_path):
    hub = MessageHub.get_instance('test_reading')
    for value in (1.0, np.float32(2), torch.tensor(3.0)):
        hub.update_scalar('loss', value)
    hub.update_info('best', np.float64(0.5))
    path = tmp_path / 'a.pth'
    torch.save(dict(message_hub=hub.state_dict(), state_dict=dict(a=torch.ones(2))), path)
    content = read_checkpoint(path)
    history = content['message_hub']['log_scalars']['loss']
    assert history.mean() == 2 and history.statistics('max') == 3
    assert content['message_hub']['runtime_info']['best'] == 0.5
    assert state_dict_of(content, path)['a'].tolist() == [1, 1]


def test_trust_is_explicit(tmp_path, monkeypatch):
    marker, path = tmp_path / 'marker', tmp_path / 'a.pth'
    torch.save(dict(a=torch.zeros(1), x=ByReduce(marker)), path)
    monkeypatch.setenv(reading._TRUST_VARIABLE, '')
    reading.trust_checkpoints()
    content = read_checkpoint(path)
    content['x'].close()
    assert marker.exists()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r'0 bytes\) cannot be read'),
        (b'not a checkpoint at all' * 9, 'damaged or is not a checkpoint'),
        (pickle.dumps([1, 2]), 'cannot be read'),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_checkpoint(path)


def test_a_checkpoint_is_a_dict(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save([torch.zeros(1)], path)
    with pytest.raises(InputError, match='list instead of a dict'):
        read_checkpoint(path)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_truncated_files_are_named(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    state = dict(a=torch.randn(500))
    if suffix == '.pth':
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match=rf'a{suffix} .*get it again'):
        read_checkpoint(path)


def test_a_checkpoint_needs_tensors(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(meta=dict(epoch=1)), path)
    with pytest.raises(InputError, match=r"must hold tensors, but holds only \['meta'\]"):
        state_dict_of(read_checkpoint(path), path)


def test_tensors_are_found_where_projects_keep_them(tmp_path):
    tensor = torch.zeros(1)
    for content in (dict(a=tensor), dict(state_dict=dict(a=tensor)), dict(teacher=dict(a=tensor))):
        assert list(state_dict_of(content, 'x')) == ['a']


# mmengine writes protocol 2.
@pytest.mark.parametrize('protocol', [2, 4])
def test_plain_pickles_of_tensors_and_arrays_are_read(tmp_path, protocol):
    content = dict(
        tensor=torch.tensor([1.5, 2.0]), array=np.arange(3), number=np.float32(0.5), names=('a',)
    )
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps(content, protocol))
    found = reading.read_pickle(path)
    assert torch.equal(found['tensor'], content['tensor'])
    assert (found['array'] == content['array']).all() and found['array'].dtype == np.int64
    assert found['number'] == 0.5 and found['names'] == ('a',)


class Packed:
    """Pickled as a call of Python's codecs, one of which unpacks archives."""

    def __reduce__(self):
        return codecs.encode, ('x', 'rot13')


class Call:
    """Pickled as a call, perhaps with a state."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def claims_objects():
    """A type of 8 bytes that says that they are a reference to an object."""
    fields = {'a': (np.dtype('O'), 0)}
    return Call(np.dtype, ('V8', False, True), (3, '|', None, ('a',), fields, 8, 1, 0))


SCALAR = np.float64().__reduce__()[0]


@pytest.mark.parametrize(
    'value',
    [
        claims_objects(),
        Call(SCALAR, (claims_objects(), b'A' * 8)),
        Call(
            np.dtype,
            ('f8', False, True),
            (3, '<', None, ('a',), {'a': (np.dtype('f8'), 0)}, 8, 1, 0),
        ),
        Call(
            np.dtype, ('f8', False, True), (3, '<', (np.dtype('f8'), (2,)), None, None, -1, -1, 0)
        ),
        Call(SCALAR, (5, b'A' * 8)),
        np.array([print], dtype=object),
        np.array(['text']),
        np.zeros(2, dtype=[('a', 'f8')]),
    ],
)
def test_types_that_numpy_would_believe_are_refused(tmp_path, value):
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps([value]))
    with pytest.raises(pickle.UnpicklingError, match='it asks for'):
        reading.read_pickle(path)


def read_as(way, value, folder):
    """Reads a value from a pickle file or a checkpoint."""
    if way == 'pickle':
        (folder / 'a.pkl').write_bytes(pickle.dumps([value]))
        return reading.read_pickle(folder / 'a.pkl')[0]
    torch.save(dict(value=value), folder / 'a.pth')
    return read_checkpoint(folder / 'a.pth')['value']


@pytest.mark.parametrize('way', ['pickle', 'checkpoint'])
def test_no_array_of_objects_is_made_of_bytes(tmp_path, way):
    # numpy makes it: the bytes are the place of an object in memory.
    assert np.ndarray((1,), 'O', b'\0' * 8).dtype == object
    found = read_as(way, Call(np.ndarray, ((1,), 'O', b'A' * 8)), tmp_path)
    assert found.dtype == np.uint8 and found.size == 0
    for kind in ('O', [('a', 'O')]):
        value = Call(SCALAR, (Call(np.dtype, (kind,)), b'A' * 8))
        with pytest.raises((pickle.UnpicklingError, InputError, TypeError)):
            read_as(way, value, tmp_path)


def test_what_was_read_can_be_written_and_read_again(tmp_path):
    first = read_as('checkpoint', [np.arange(3), np.float32(0.5), np.dtype('f4')], tmp_path)
    array, number, kind = read_as('checkpoint', first, tmp_path)
    assert array.tolist() == [0, 1, 2] and number == 0.5 and kind.dtype == np.float32
    assert type(pickle.loads(pickle.dumps(first[0]))) is np.ndarray


def test_arrays_of_each_kind_of_number_are_read(tmp_path):
    kinds = ('?', 'u1', 'i2', '>i4', 'f2', 'f8', '>f4')
    arrays = [np.asfortranarray(np.arange(6).reshape(2, 3).astype(kind)) for kind in kinds]
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps([*arrays, arrays[5][1, 2]], 4))
    *found, number = reading.read_pickle(path)
    for array, expected in zip(found, arrays, strict=True):
        assert array.dtype.kind == expected.dtype.kind and (array == expected).all()
    assert number == 5.0


@pytest.mark.parametrize(
    'value', [HistoryBuffer([1.0], [1]), print, Attribute(np.arange(3), 'T'), Packed()]
)
def test_plain_pickles_of_anything_else_are_refused(tmp_path, value):
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps([value]))
    with pytest.raises(pickle.UnpicklingError, match='it asks for'):
        reading.read_pickle(path)


def test_each_address_has_its_own_copy(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, path, progress):
        fetched.append(url)
        torch.save(dict(number=torch.tensor(len(fetched))), path)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    urls = [
        'https://huggingface.co/facebook/dinov2-base/resolve/main/model.pth',
        'https://huggingface.co/someone/dinov2-base/resolve/main/model.pth',
        'https://huggingface.co/someone/dinov2-base/resolve/v2/model.pth',
        'https://huggingface.co/someone/dinov2-base/resolve/v2/old/model.pth',
        'https://example.org/a/model.pth?signature=1',
        'https://example.org/b/model.pth',
        'https://example.com/b/model.pth',
        'https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth',
    ]
    for _ in range(2):
        assert [int(read_checkpoint(url)['number']) for url in urls] == list(range(1, 9))
    assert int(read_checkpoint('https://example.org/a/model.pth?signature=2')['number']) == 5
    assert fetched == urls
    # The name that torch.hub gives it.
    assert (tmp_path / 'checkpoints' / 'dinov2_vits14_pretrain.pth').is_file()


def test_compressed_archives_are_refused(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(a=torch.zeros(1000)), path)
    assert len(read_checkpoint(path)['a']) == 1000
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match='a.pth has compressed parts'):
        read_checkpoint(path)
