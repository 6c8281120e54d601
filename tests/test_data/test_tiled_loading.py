"""Images of which tiles are read: the pixels are those of the whole image, from any file."""

import copy
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from PIL import Image

from mmdet_dinov2.data import row_reading
from mmdet_dinov2.data.loading import BadImageError, CheckedLoadImageFromFile
from mmdet_dinov2.data.row_reading import open_rows
from mmdet_dinov2.data.tiff_reading import open_tiff
from mmdet_dinov2.data.tiled_loading import (
    DecodedImage,
    TiledLoadImageFromFile,
    open_in_parts,
    reduce_image,
    shown_pixels,
)
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.large_image import detach

tifffile = pytest.importorskip('tifffile')
BOXES = [(0, 0, 150, 101), (0, 0, 1, 1), (30, 20, 66, 71), (149, 100, 150, 101), (5, 63, 140, 65)]
TILED = dict(tile=(32, 48), photometric='rgb')


@pytest.fixture(scope='module')
def pixels():
    """A smooth image of odd size, BGR."""
    rows, columns = np.mgrid[:101, :150]
    return np.stack([rows * 2, columns, (rows + columns) % 256], -1).astype(np.uint8)


def write_tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels[..., ::-1], **options)
    return path


@pytest.mark.parametrize(
    'options',
    [
        TILED,
        dict(TILED, compression='zlib'),
        dict(rowsperstrip=7, photometric='rgb'),
        dict(rowsperstrip=101, photometric='rgb'),
    ],
)
def test_parts_of_a_tiff_file_are_those_of_the_image(tmp_path, pixels, options):
    image = open_tiff(write_tiff(tmp_path / 'a.tif', pixels, **options))
    assert image.shape == (101, 150)
    for read in (image.read, pickle.loads(pickle.dumps(image)).read):
        for x1, y1, x2, y2 in BOXES:
            assert np.array_equal(read(x1, y1, x2, y2), pixels[y1:y2, x1:x2])
    loaded = CheckedLoadImageFromFile().transform(dict(img_path=str(tmp_path / 'a.tif')))
    assert np.array_equal(loaded['img'], pixels)


def test_grey_and_transparent_tiff_files(tmp_path, pixels):
    tifffile.imwrite(tmp_path / 'grey.tif', pixels[..., 0], tile=(32, 48))
    grey = open_tiff(tmp_path / 'grey.tif').read(30, 20, 66, 71)
    assert np.array_equal(grey, np.repeat(pixels[20:71, 30:66, :1], 3, 2))
    alpha = np.concatenate([pixels[..., ::-1], pixels[..., :1]], -1)
    tifffile.imwrite(tmp_path / 'rgba.tif', alpha, extrasamples=['unassalpha'], **TILED)
    assert np.array_equal(open_tiff(tmp_path / 'rgba.tif').read(*BOXES[2]), pixels[20:71, 30:66])


def test_other_files_are_read_as_a_whole(tmp_path, pixels):
    tifffile.imwrite(tmp_path / 'deep.tif', pixels.astype(np.uint16), **TILED)
    write_tiff(tmp_path / 'turned.tif', pixels, extratags=[(274, 3, 1, 6, True)], **TILED)
    tifffile.imwrite(
        tmp_path / 'planes.tif', pixels.transpose(2, 0, 1), planarconfig='separate', **TILED
    )
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    alpha = np.concatenate([pixels, pixels[..., :1]], -1)
    tifffile.imwrite(tmp_path / 'multiplied.tif', alpha, extrasamples=['assocalpha'], **TILED)
    tifffile.imwrite(tmp_path / 'grey.tif', pixels, photometric='minisblack', planarconfig='contig')
    (tmp_path / 'broken.tif').write_bytes(b'II*\0no')
    for name in (
        'multiplied.tif',
        'grey.tif',
        'deep.tif',
        'turned.tif',
        'planes.tif',
        'a.png',
        'broken.tif',
        'none.tif',
    ):
        assert open_tiff(tmp_path / name) is None, name
    load = TiledLoadImageFromFile()
    results = load.transform(dict(img_path=str(tmp_path / 'turned.tif')))
    assert results['ori_shape'] == results['img'].shape[:2] == (150, 101)
    assert isinstance(results['large_image'], DecodedImage)
    for name in ('broken.tif', 'none.tif'):
        with pytest.raises(BadImageError):
            load.transform(dict(img_path=str(tmp_path / name)))


def test_a_damaged_tile_is_one_sentence(tmp_path, pixels):
    path = write_tiff(tmp_path / 'a.tif', pixels, compression='zlib', **TILED)
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[-1]
    content = bytearray(path.read_bytes())
    content[offset : offset + 30] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(BadImageError, match="a.tif' cannot be read: it cannot be decoded"):
        open_tiff(path).read(140, 90, 150, 101)
    with pytest.raises(BadImageError, match='a.tif'):
        TiledLoadImageFromFile().transform(dict(img_path=str(path)))


@pytest.fixture
def all_sizes_in_rows(monkeypatch):
    pytest.importorskip('pyvips')
    monkeypatch.setattr(row_reading, '_MIN_PIXELS', 1)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('a.jpg', {}),
        ('a.jpg', dict(subsampling=0, quality=98)),
        ('a.png', {}),
        ('grey.jpg', {}),
        ('grey.png', {}),
        ('palette.png', {}),
    ],
)
def test_rows_of_a_file_are_those_of_the_image(all_sizes_in_rows, tmp_path, pixels, name, options):
    image = Image.fromarray(pixels[..., ::-1].copy())
    mode = dict(grey='L', palette='P').get(name.partition('.')[0])
    path = tmp_path / name
    (image.convert(mode) if mode else image).save(path, **options)
    whole = CheckedLoadImageFromFile().transform(dict(img_path=str(path)))['img']
    opened = open_rows(path)
    assert opened.shape == (101, 150)
    opened.read(0, 5, 9, 60)
    for read in (opened.read, pickle.loads(pickle.dumps(opened)).read):
        # From top to bottom, with rows left out, within the rows at hand, and back again.
        for x1, y1, x2, y2 in [(3, 90, 20, 95), *BOXES, (7, 64, 9, 65), (0, 3, 150, 101)]:
            assert np.array_equal(read(x1, y1, x2, y2), whole[y1:y2, x1:x2])
    loaded = TiledLoadImageFromFile().transform(dict(img_path=str(path)))
    assert isinstance(loaded['large_image'], row_reading.RowFile)
    assert np.array_equal(loaded['img'], whole)


@pytest.mark.skipif(not os.path.exists('/proc/self/maps'), reason='needs Linux')
@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
def test_memory_does_not_come_to_hold_the_file(all_sizes_in_rows, tmp_path, pixels, name):
    path = tmp_path / name
    Image.fromarray(pixels).save(path)
    opened = open_rows(path)
    opened.read(0, 0, 150, 40)
    with open('/proc/self/maps') as maps:
        assert str(path) not in maps.read()


def test_parts_do_not_change_when_others_are_read(all_sizes_in_rows, tmp_path, pixels):
    path = tmp_path / 'a.png'
    Image.fromarray(pixels[..., ::-1].copy()).save(path)
    opened = open_rows(path)
    parts = [opened.read(0, top, 150, top + 30) for top in (0, 20, 60)]
    for part, top in zip(parts, (0, 20, 60), strict=True):
        assert np.array_equal(part, pixels[top : top + 30])


@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_forked_processes_do_not_share_the_place_in_the_file(all_sizes_in_rows, tmp_path, name):
    # Larger than what is read ahead.
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 150, 3), np.uint8)
    path = tmp_path / name
    if name == 'a.tif':
        write_tiff(path, pixels, **TILED)
    else:
        Image.fromarray(pixels[..., ::-1].copy()).save(path)
    opened = open_in_parts(path)
    opened.read(0, 0, 150, 20)
    handle = opened._page.parent.filehandle if name == 'a.tif' else None
    child = os.fork()
    if child == 0:
        right = np.array_equal(opened.read(0, 30, 150, 1500), pixels[30:1500])
        shared = handle is not None and opened._page.parent.filehandle is handle
        os._exit(0 if right and not shared else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(opened.read(0, 20, 150, 2000), pixels[20:])


def test_what_interrupts_the_decoding_leaves_no_wrong_rows(
    all_sizes_in_rows, tmp_path, pixels, monkeypatch
):
    path = tmp_path / 'a.png'
    Image.fromarray(pixels[..., ::-1].copy()).save(path)
    opened = open_rows(path)
    opened.read(0, 0, 150, 60)
    rows = row_reading._Decoder.rows
    problems = iter([KeyboardInterrupt(), OSError('stale handle')])

    def interrupted(decoder, top, bottom):
        if top >= 80:
            monkeypatch.setattr(row_reading._Decoder, 'rows', rows)
            raise next(problems)
        return rows(decoder, top, bottom)

    for expected in (KeyboardInterrupt, BadImageError):
        monkeypatch.setattr(row_reading._Decoder, 'rows', interrupted)
        with pytest.raises(expected):
            opened.read(0, 50, 150, 101)
        assert np.array_equal(opened.read(0, 5, 150, 40), pixels[5:40])
        opened.read(0, 0, 150, 60)


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    all_sizes_in_rows, tmp_path, pixels, monkeypatch, capfd
):
    path = tmp_path / 'a.png'
    Image.fromarray(pixels).save(path)
    opened = open_rows(path)
    path.unlink()
    with pytest.raises(BadImageError, match=r'cannot be decoded \(.*No such file'):
        opened.read(0, 0, 150, 40)
    assert capfd.readouterr().err == ''


def test_masks_of_another_size_are_noticed(tmp_path, pixels):
    path = tmp_path / 'a.png'
    Image.fromarray(pixels).save(path)
    mask = dict(size=[150, 101], counts=b'')
    sample = dict(img_path=str(path), instances=[dict(mask=mask)])
    for load in (CheckedLoadImageFromFile(), TiledLoadImageFromFile()):
        with pytest.raises(BadImageError, match='masks of its annotations have 150 x 101'):
            load.transform(copy.deepcopy(sample))


def test_a_tile_of_a_damaged_file_is_a_bad_image(tmp_path, pixels):
    path = write_tiff(tmp_path / 'a.tif', pixels, compression='zlib', **TILED)
    with tifffile.TiffFile(path) as file:
        offsets = file.pages.first.dataoffsets[1:]
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset : offset + 10] = bytes(10)
    path.write_bytes(content)
    load = Compose(
        [
            dict(type='TiledLoadImageFromFile', reduced=False),
            dict(type='RandomTile', size=100),
        ]
    )
    with pytest.raises(BadImageError, match='a.tif'):
        load(dict(img_path=str(path)))


def test_files_without_such_rows_are_read_as_a_whole(all_sizes_in_rows, tmp_path, pixels):
    image = Image.fromarray(pixels[..., ::-1].copy())
    image.save(tmp_path / 'progressive.jpg', progressive=True)
    image.convert('CMYK').save(tmp_path / 'cmyk.jpg')
    image.convert('RGBA').save(tmp_path / 'rgba.png')
    image.save(tmp_path / 'a.webp')
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / 'turned.jpg', exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 99).save(tmp_path / 'deep.png')
    image.save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(content[:-2])
    for path in sorted(set(tmp_path.iterdir()) - {tmp_path / 'a.jpg'}):
        assert open_rows(path) is None, path.name
    assert open_rows(tmp_path / 'none.jpg') is None
    kept = TiledLoadImageFromFile(keep=1).transform(dict(img_path=str(tmp_path / 'a.jpg')))
    assert isinstance(kept['large_image'], DecodedImage)


def test_small_files_and_those_without_pyvips_are_read_as_a_whole(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / 'a.jpg')
    assert open_rows(tmp_path / 'a.jpg') is None
    monkeypatch.setattr(row_reading, '_MIN_PIXELS', 1)
    monkeypatch.setitem(sys.modules, 'pyvips', None)
    assert open_rows(tmp_path / 'a.jpg') is None


def test_a_file_cut_off_is_one_sentence(all_sizes_in_rows, tmp_path, pixels):
    path = tmp_path / 'a.png'
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    opened = open_rows(path)
    for top in (90, 95):  # rows that failed once are not there the second time
        with pytest.raises(BadImageError, match="a.png' cannot be read: it cannot be decoded"):
            opened.read(0, top, 150, 101)
    with pytest.raises(BadImageError, match='a.png'):
        TiledLoadImageFromFile().transform(dict(img_path=str(path)))


@pytest.mark.parametrize('side', [150, 149, 75, 40, 9])
def test_a_reduced_image_is_the_mean_of_its_pixels(pixels, side, monkeypatch):
    monkeypatch.setattr('mmdet_dinov2.data.tiled_loading._PIXELS', 20 * 150)
    reduced = reduce_image(DecodedImage(pixels), side)
    factor = -(-150 // side)
    assert max(reduced.shape[:2]) <= side and reduced.shape[2] == 3
    assert abs(reduced.shape[0] - 101 / factor) <= 1 and reduced.shape[1] == 150 // factor
    block = pixels[:factor, :factor].reshape(-1, 3).mean(0)
    assert np.allclose(reduced[0, 0], block, atol=2)
    if factor == 1:
        assert np.array_equal(reduced, pixels)


def pipeline(*between, **load):
    return Compose(
        [
            dict(type='TiledLoadImageFromFile', **load),
            *between,
            dict(type='PackTiledInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
        ]
    )


def test_a_reduced_image_has_the_scale_of_the_file(tmp_path, pixels, monkeypatch):
    path = str(write_tiff(tmp_path / 'a.tif', pixels, **TILED))
    Image.fromarray(pixels[..., ::-1]).save(tmp_path / 'a.png')
    resize = dict(type='Resize', scale=(60, 60), keep_ratio=True)
    monkeypatch.setattr('mmdet_dinov2.data.tiled_loading._REDUCED_SIDE', 80)
    for name, before in ((path, 75), (str(tmp_path / 'a.png'), 150)):
        packed = pipeline(resize)(dict(img_path=name))
        sample, image = detach(packed['data_samples'])
        assert image.shape == sample.ori_shape == (101, 150), before
        assert packed['inputs'].shape == (3, *sample.img_shape) and sample.img_shape[1] == 60
        assert sample.scale_factor[0] == pytest.approx(60 / 150)
        assert sample.scale_factor[1] == pytest.approx(60 / 150, rel=0.03)
        assert 'large_image' not in sample
    small = pipeline(reduced_side=50)(dict(img_path=path))
    assert small['inputs'].shape[2] == 50
    assert small['data_samples'].scale_factor[0] == pytest.approx(1 / 3)
    given = pipeline()(dict(img=pixels))
    assert torch.equal(given['inputs'], torch.from_numpy(pixels).permute(2, 0, 1))
    load = TiledLoadImageFromFile(reduced_side=20)
    assert shown_pixels(load.transform(dict(img_path=str(tmp_path / 'a.png')))).shape[1] == 150
    assert shown_pixels(load.transform(dict(img_path=path))).shape[1] == 75


def test_decoded_images_are_kept(tmp_path, pixels, monkeypatch):
    for name in 'abc':
        Image.fromarray(pixels).save(tmp_path / f'{name}.png')
    load = TiledLoadImageFromFile(reduced=False, keep=2)
    decoded = []
    read = TiledLoadImageFromFile._load
    monkeypatch.setattr(
        TiledLoadImageFromFile,
        '_load',
        lambda self, results: decoded.append(results['img_path'][-5]) or read(self, results),
    )
    for name in 'abbacab':
        results = load.transform(dict(img_path=str(tmp_path / f'{name}.png')))
        assert 'img' not in results and results['img_shape'] == (101, 150)
    assert decoded == ['a', 'b', 'c', 'b']
    assert not pickle.loads(pickle.dumps(load))._kept
    with pytest.raises(InputError, match='keep must be a whole number of at least 0, but is -1'):
        TiledLoadImageFromFile(keep=-1)


def test_an_image_too_large_to_decode_is_one_sentence(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    load = TiledLoadImageFromFile(max_pixels=1000)
    with pytest.raises(BadImageError, match='150 x 101 pixels, but at most 1,000 are allowed'):
        load.transform(dict(img_path=str(tmp_path / 'a.png')))
    # Read in parts, its size does not matter.
    load.transform(dict(img_path=str(write_tiff(tmp_path / 'a.tif', pixels, **TILED))))


def test_packing_needs_the_image():
    pack = Compose([dict(type='PackTiledInputs')])
    with pytest.raises(InputError, match='needs TiledLoadImageFromFile'):
        pack(dict(img=np.zeros((4, 5, 3), np.uint8)))
