"""Planted copies of real photos are found, and nothing else."""

import random
from collections import Counter

import pytest
from mmengine.config import Config
from PIL import Image

from mmdet_dinov2.selection.embeddings import PhotoEmbedder, embed_photos
from mmdet_dinov2.selection.photo_splits import UNLABELED, PhotoSplits

from ..tiny import backbone_cfg

# Photos of the datasets that show the same, seen by eye.
SAME = {
    'raccoon': ('11 116', '50 52 74', '65 98', '83 120', '21 45', '51 85'),
    'bccd': ('00037 00038',),
}
_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def plant(path, folder, rng):
    """Writes copies of a photo: resized, compressed again, mirrored, and all of it."""
    photo = Image.open(path).convert('RGB')
    scale = rng.choice([0.3, 0.5, 0.7, 1.6])
    size = [max(1, round(side * scale)) for side in photo.size]
    resized = photo.resize(size, rng.choice(list(Image.Resampling)))
    copies = [
        (resized, 95),
        (photo, rng.choice([20, 40, 60])),
        (photo.transpose(_MIRROR), 95),
        (resized.transpose(_MIRROR), 30),
    ]
    for number, (copy, quality) in enumerate(copies):
        target = folder / f'{path.stem}_{number}.jpg'
        copy.save(target, quality=quality)
        yield str(target)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['raccoon', 'bccd'])
def test_planted_copies(shared, tmp_path, name):
    rng = random.Random(0)
    photos = sorted((shared / 'data' / name / 'images').iterdir())[:120]
    source_of = {
        copy: str(path) for path in rng.sample(photos, 20) for copy in plant(path, tmp_path, rng)
    }
    splits = {'train': [str(path) for path in photos], UNLABELED: list(source_of)}
    # Random weights are enough to find the photos that are worth a comparison.
    cfg = Config(dict(model=dict(backbone=backbone_cfg(img_size=112))))
    embeddings = embed_photos(
        PhotoEmbedder(cfg, size=112), [*splits['train'], *splits[UNLABELED]], tmp_path / 'cache'
    )
    found = PhotoSplits(embeddings, splits).near_duplicates(lambda total: lambda: None)
    number = {str(path): path.stem.rpartition('-')[2].rpartition('_')[2] for path in photos}
    same = [set(numbers.split()) for numbers in SAME[name]]

    def is_right(pair):
        source, of = source_of.get(pair.photo, pair.photo), source_of.get(pair.of, pair.of)
        pairs = number[source], number[of]
        return source == of or any(group.issuperset(pairs) for group in same)

    right = Counter((pair.of_split, pair.split) for pair in found if is_right(pair))
    # Every copy but the first of a photo has one before it among the copies.
    assert right['train', UNLABELED] >= 0.95 * len(source_of)
    assert right[UNLABELED, UNLABELED] >= 0.95 * (len(source_of) - 20)
    assert sum(right.values()) >= 0.95 * len(found)
    mirrored = [p.mirrored for p in found if p.of_split == 'train' and p.split == UNLABELED]
    assert 0.4 < sum(mirrored) / len(mirrored) < 0.6
