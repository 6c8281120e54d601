"""Embeddings of photos: what they are, and that they are computed once."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference.backbone_input import prepare_image
from mmdet_dinov2.selection.embeddings import Directions, PhotoEmbedder, embed_photos

from ..test_data.images import jpeg, picture
from ..tiny import backbone_cfg


def config(**kwargs):
    pre = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 60.0, 60.0], bgr_to_rgb=True)
    return Config(dict(model=dict(backbone=backbone_cfg(**kwargs), data_preprocessor=pre)))


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Photos of odd sizes; the last one is the first one, mirrored."""
    folder = tmp_path_factory.mktemp('photos')
    sizes = [(60, 45), (45, 60), (71, 20), (33, 33), (90, 31)]
    paths = [folder / f'{number}.png' for number in range(6)]
    for seed, (path, size) in enumerate(zip(paths, sizes, strict=False)):
        picture(*size, seed=seed).save(path)
    Image.open(paths[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(paths[-1])
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    'backbone',
    [
        dict(),
        dict(num_registers=2, window_size=2, global_attn_indexes=[3], out_indices=(1, 3)),
        dict(type='DINOv3'),
    ],
    ids=['plain', 'windows', 'DINOv3'],
)
def test_an_embedding_is_the_mean_over_a_photo_and_its_mirror_image(photos, tmp_path, backbone):
    cfg = config(**backbone)
    embedder = PhotoEmbedder(cfg, size=70)
    found = embed_photos(embedder, photos, tmp_path, batch_size=4)
    assert found.paths == photos and not found.problems
    for row, path in enumerate(photos):
        _, pixels = prepare_image(cfg, path, 70)
        with torch.no_grad():
            maps = [embedder._backbone(view[None])[-1] for view in (pixels, pixels.flip(-1))]
        expected = torch.stack([m.flatten(2).mean(2)[0] for m in maps]).mean(0)
        assert found.embeddings(slice(row, row + 1))[0] == pytest.approx(expected, abs=1e-5)
    # A photo and its mirror image are the same to the embedding, and not to the thumbnail.
    first, last = found.embeddings(np.array([0, 5]))
    assert first == pytest.approx(last, abs=1e-5)
    grey = found.thumbnails
    assert float(grey[0:1] @ grey[5:6].T) < 0.5
    assert float(grey[0:1] @ grey.mirror()[5:6].T) == pytest.approx(1, abs=1e-3)
    centre = found.mean()
    assert centre == pytest.approx(found.embeddings(slice(None)).mean(0), abs=1e-6)
    directions = Directions(found, centre, np.array([3, 1]))
    expected = found.embeddings(np.array([3, 1])) - centre
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert directions[:].numpy() == pytest.approx(expected, abs=1e-5)
    assert len(directions) == 2


def test_photos_are_read_once(photos, tmp_path, monkeypatch):
    read = []
    prepare = PhotoEmbedder.prepare
    monkeypatch.setattr(
        PhotoEmbedder, 'prepare', lambda self, path: read.append(path) or prepare(self, path)
    )
    before = embed_photos(PhotoEmbedder(config(), size=56), photos[:3], tmp_path)
    copy = tmp_path / 'copy.jpg'
    copy.write_bytes(jpeg(seed=9))
    counts = []
    after = embed_photos(
        # Random weights are the same in every program.
        PhotoEmbedder(config(), size=56), [*photos[1:4], str(copy)], tmp_path,
        start=lambda total: lambda: counts.append(total),
    )  # fmt: skip
    assert sorted(read) == sorted([*photos[:4], str(copy)]) and counts == [2, 2]
    assert np.array_equal(before.embeddings(slice(1, 3)), after.embeddings(slice(0, 2)))
    # A file that changes, another size and other weights are computed.
    copy.write_bytes(jpeg(50, 30, seed=9))
    embed_photos(PhotoEmbedder(config(), size=56), [str(copy)], tmp_path)
    embed_photos(PhotoEmbedder(config(), size=42), photos[:1], tmp_path)
    other = PhotoEmbedder(config(), size=56)
    with torch.no_grad():
        other._backbone.norm.weight += 1
    embed_photos(other, photos[:1], tmp_path)
    assert len(read) == 8


def test_photos_that_cannot_be_read_are_named(photos, tmp_path):
    bad, missing = tmp_path / 'bad.jpg', tmp_path / 'missing.jpg'
    bad.write_bytes(jpeg()[:200])
    link = tmp_path / 'link.jpg'
    link.symlink_to(bad)
    found = embed_photos(
        PhotoEmbedder(config(), size=56),
        [str(bad), photos[0], str(link), str(missing)],
        tmp_path / 'cache',
        batch_size=1,
    )
    assert found.paths == [photos[0]]
    assert set(found.problems) == {str(bad), str(link), str(missing)}
    assert 'is not a valid image' in found.problems[str(bad)]
    assert 'missing.jpg cannot be read (No such file' in found.problems[str(missing)]
    assert len(found.embeddings(slice(None))) == len(found.thumbnails) == 1
    with pytest.raises(InputError, match='batch_size must be at least 1'):
        embed_photos(PhotoEmbedder(config(), size=56), photos, tmp_path, batch_size=0)


def test_it_says_what_the_embeddings_are(tmp_path):
    embedder = PhotoEmbedder(config(), size=56)
    assert not embedder.has_weights
    text = embedder.describe()
    assert 'DINOv2' in text and '32 values' in text and '56 pixels' in text
    assert 'RANDOM WEIGHTS' in text
    state = {f'backbone.{k}': v for k, v in embedder._backbone.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    loaded = PhotoEmbedder(config(), tmp_path / 'a.pth', size=56)
    assert loaded.has_weights and loaded.describe().endswith('weights of a.pth')
    assert loaded.fingerprint() == embedder.fingerprint()
