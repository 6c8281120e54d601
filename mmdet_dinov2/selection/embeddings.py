"""Embeddings and thumbnails of photos, computed once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..data.near_duplicates import SIDE, Thumbnails, thumbnail
from ..data.record_file import RecordFile, file_key
from ..errors import InputError
from ..inference.backbone_input import load_backbone_of, prepare_image, weights_title
from ..inference.overlapped import threads_beside
from ..quiet_logging import without_messages
from .weights_hash import weights_hash

# Part of the name of the cache: another way to compute the same things gets other files.
_VERSION = 1
_MAX_LOADERS = 8
# Rows that are read at a time to compute a mean.
_BLOCK = 4096


class PhotoEmbedder:
    """Computes embeddings of photos with the backbone of a detector.

    The embedding of a photo is the mean of its patch tokens after the last block, over the photo
    and its mirror image. So a photo and its mirror image have the same embedding.

    Args:
        cfg: Config of the detector.
        checkpoint: Checkpoint of the detector; by default the ``init_cfg`` of the backbone is used.
        size: Length of the longer side of the photos in pixels.
        device: Where to compute.

    Attributes:
        size: As above.
        dims: Number of values of an embedding.

    Raises:
        InputError: If the config has no backbone of this project, or the weights do not fit.
        FileNotFoundError: If the weights do not exist.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Path | None = None,
        size: int = 224,
        device: torch.device | str = 'cpu',
    ) -> None:
        with torch.random.fork_rng(devices=[]), without_messages():
            torch.manual_seed(0)  # random weights are the same in every run
            self._backbone, self._loaded = load_backbone_of(cfg, checkpoint)
        self._backbone.eval().to(device)
        self._device = device
        self._cfg = cfg
        self.size = size
        self.dims = self._backbone.embed_dims

    @property
    def has_weights(self) -> bool:
        """Whether weights were loaded; otherwise they are random."""
        return self._loaded is not None

    def describe(self) -> str:
        """Returns what the embeddings are, as a sentence."""
        arch = self._cfg.model.backbone.arch
        name = f'{type(self._backbone).__name__} {arch if isinstance(arch, str) else "backbone"}'
        return (
            f'mean of the patch tokens of {name} ({self.dims} values), photos of {self.size} '
            f'pixels, over the photo and its mirror image; {weights_title(self._loaded)}'
        )

    def fingerprint(self) -> str:
        """Returns a hash of all that the embeddings depend on."""
        pre = self._cfg.model.get('data_preprocessor', {})
        return weights_hash(self._backbone, _VERSION, self.size, SIDE, dict(pre))

    def prepare(self, path: str | os.PathLike) -> tuple[np.ndarray, Tensor]:
        """Reads a photo.

        Returns:
            Its thumbnail and the input of the backbone, shape (3, H, W).

        Raises:
            FileNotFoundError: If there is no such file.
            InputError: If it is not a valid image.
        """
        picture, pixels = prepare_image(self._cfg, path, self.size)
        return thumbnail(picture), pixels

    @torch.no_grad()
    def embed(self, photos: Sequence[Tensor]) -> np.ndarray:
        """Returns the embeddings of prepared photos, shape (N, ``dims``), float32."""
        sizes = [tuple(photo.shape[1:]) for photo in photos]
        canvas = photos[0].new_zeros(len(photos), 2, 3, *np.max(sizes, axis=0))
        for place, photo in zip(canvas, photos, strict=True):
            place[0, :, : photo.shape[1], : photo.shape[2]] = photo
            place[1, :, : photo.shape[1], : photo.shape[2]] = photo.flip(-1)
        both = [size for size in sizes for _ in range(2)]
        features = self._backbone(canvas.flatten(0, 1).to(self._device), both)[-1]
        # Cells outside of the photos are zero.
        means = features.float().sum((2, 3)).view(len(photos), 2, -1).mean(1)
        patch = self._backbone.patch_size
        cells = [-(-height // patch) * -(-width // patch) for height, width in sizes]
        return (means.cpu() / torch.tensor(cells)[:, None]).numpy()


@dataclass(frozen=True)
class PhotoEmbeddings:
    """Embeddings and thumbnails of photos, read from their file when they are asked for.

    Attributes:
        paths: The photos that can be read.
        problems: Why each of the others cannot, by its path.
        records: Embeddings and thumbnails of the cache, mapped from its file.
        rows: Position in ``records`` of each photo, shape (N,).
    """

    paths: list[str]
    problems: dict[str, str]
    records: np.ndarray
    rows: np.ndarray

    @property
    def thumbnails(self) -> Thumbnails:
        """Thumbnails of the photos, in the order of ``paths``."""
        return Thumbnails(self.records['thumbnail'], self.rows)

    def embeddings(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns the embeddings of some photos, shape (N, C), float32."""
        return np.asarray(self.records['embedding'][self.rows[rows]])

    def mean(self) -> np.ndarray:
        """Returns the mean of all embeddings, shape (C,), float64."""
        total = np.zeros(self.records['embedding'].shape[1])
        for start in range(0, len(self.rows), _BLOCK):
            total += self.embeddings(slice(start, start + _BLOCK)).sum(0, dtype=np.float64)
        return total / max(1, len(self.rows))


class Directions:
    """Embeddings as unit vectors from a centre, whose scalar products are cosines.

    Weights give all photos a large common part, which says nothing about any of them.

    Args:
        photos: The photos.
        centre: What is subtracted, shape (C,).
        rows: Which of the photos, shape (M,); by default all.
    """

    def __init__(
        self, photos: PhotoEmbeddings, centre: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        self._photos = photos
        self._centre = centre
        self._rows = np.arange(len(photos.rows)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> Tensor:
        values = self._photos.embeddings(self._rows[rows]) - self._centre
        return nn.functional.normalize(torch.from_numpy(values).float(), dim=1)


def embed_photos(
    embedder: PhotoEmbedder,
    paths: Sequence[str],
    cache: str | os.PathLike,
    batch_size: int = 16,
    start: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> PhotoEmbeddings:
    """Computes what the cache lacks of the embeddings and thumbnails of photos.

    Args:
        embedder: What computes embeddings.
        paths: The photos.
        cache: Folder for the results, which later calls with the same weights use. A call that is
            stopped loses no more than its last batch.
        batch_size: Number of photos that the backbone takes at once.
        start: Called with the number of photos to read; returns a function to call after each.

    Raises:
        InputError: If ``batch_size`` is less than 1.
    """
    if batch_size < 1:
        raise InputError(f'batch_size must be at least 1, but is {batch_size}')
    dtype = np.dtype(
        [('embedding', np.float32, embedder.dims), ('thumbnail', np.uint8, (SIDE,) * 2)]
    )
    folder = Path(cache) / f'embeddings-{embedder.fingerprint()}'
    keys: dict[str, str] = {}
    problems: dict[str, str] = {}
    unusable: dict[str, str] = {}  # by key, which links to a photo share with it
    for path in paths:
        try:
            keys[path] = file_key(path)
        except OSError as error:
            problems[path] = f'{path} cannot be read ({error.strerror or error})'
    with RecordFile(folder, dtype) as known:
        missing = {key: path for path, key in keys.items() if key not in known}
        advance = start(len(missing))
        batch: list[tuple[str, np.ndarray, Tensor]] = []

        def finish() -> None:
            records = np.empty(len(batch), dtype)
            records['embedding'] = embedder.embed([pixels for _, _, pixels in batch])
            records['thumbnail'] = [small for _, small, _ in batch]
            known.append([key for key, _, _ in batch], records)
            batch.clear()

        for key, prepared in _prepare_ahead(embedder, missing, batch_size):
            if isinstance(prepared, str):
                unusable[key] = prepared
            else:
                batch.append((key, *prepared))
            if len(batch) == batch_size:
                finish()
            advance()
        if batch:
            finish()
        problems.update((path, unusable[key]) for path, key in keys.items() if key in unusable)
        readable = [path for path in keys if path not in problems]
        rows = known.places(keys[path] for path in readable)
        return PhotoEmbeddings(readable, problems, known.records(), rows)


def _prepare_ahead(
    embedder: PhotoEmbedder, photos: Mapping[str, str], batch_size: int
) -> Iterator[tuple[str, tuple[np.ndarray, Tensor] | str]]:
    """Yields key and prepared photo, or why it cannot be used, while others are read."""

    def prepare(path: str) -> tuple[np.ndarray, Tensor] | str:
        try:
            return embedder.prepare(path)
        except (InputError, OSError) as error:
            return str(error)

    with threads_beside(min(_MAX_LOADERS, os.cpu_count() or 1)) as pool:
        waiting: deque = deque()
        for key, path in photos.items():
            waiting.append((key, pool.submit(prepare, path)))
            if len(waiting) > 2 * batch_size:
                key, prepared = waiting.popleft()
                yield key, prepared.result()
        for key, prepared in waiting:
            yield key, prepared.result()
