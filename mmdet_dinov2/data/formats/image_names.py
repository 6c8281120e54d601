"""Finds the pictures that the names in annotation files mean.

Annotation tools write names of the computer that they run on: with backslashes, with folders of a
server, with characters as in a URL. A picture is taken for the one that is meant only where no
other one could be, and where its size is that of the annotations.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ...errors import InputError
from ..coco_file import leaves_folder
from ..data_folder import DataFolder
from ..image_header import read_header
from ..splits import split_of_folders

# Number of names that are looked up to recognise an image folder.
_NUM_SAMPLED = 20
# What Label Studio puts before the name of an uploaded picture.
_UPLOAD = re.compile('[0-9a-f]{8}-')


@dataclass(frozen=True)
class LocatedImages:
    """Where the pictures of an annotation file are.

    Attributes:
        folder: Folder that ``names`` are relative to.
        names: File names below it by the names in the file. A picture that was not found keeps
            its name.
        missing: The names whose picture was not found.
    """

    folder: Path
    names: dict[str, str]
    missing: list[str]


def locate_images(
    names: Sequence[str],
    sizes: Mapping[str, tuple[float, float]],
    folder: DataFolder,
    candidates: Sequence[Path],
    split: str,
) -> LocatedImages:
    """Finds the pictures of an annotation file.

    Args:
        names: The names, each once.
        sizes: ``(width, height)`` in pixels by name, where the file has them.
        folder: The folder of the dataset.
        candidates: Folders that the names may be relative to, the likeliest first.
        split: The split; pictures in folders of other splits are not searched.
    """
    sample = names[:: -(-len(names) // _NUM_SAMPLED)]
    counts = [sum(_is_file(folder, base, name) for name in sample) for base in candidates]
    best = candidates[counts.index(max(counts))]
    paths = {name: os.path.normpath(best / name) for name in names if _is_file(folder, best, name)}
    inside = {n for n in paths if not leaves_folder(os.fspath(best), n)}
    if len(inside) == len(names):
        return LocatedImages(best, {name: name for name in names}, [])
    paths = {n: p for n, p in paths.items() if Path(p).is_relative_to(folder.root) or n in inside}
    paths |= _search(
        [name for name in names if name not in paths], sizes, folder, candidates, split
    )
    missing = [name for name in names if name not in paths]
    if not paths:
        return LocatedImages(best, {name: name for name in names}, missing)
    base = _base_of(paths) if not missing else None
    if base is not None:
        return LocatedImages(Path(base), {name: name for name in names}, [])
    top = best if all(Path(path).is_relative_to(best) for path in paths.values()) else folder.root
    found = {name: Path(path).relative_to(top).as_posix() for name, path in paths.items()}
    return LocatedImages(top, {name: found.get(name, name) for name in names}, missing)


def _is_file(folder: DataFolder, base: Path, name: str) -> bool:
    try:
        path = os.path.normpath(os.path.join(base, name))
        return path in folder.paths or os.path.isfile(path)
    except ValueError:  # names that no file can have
        return False


def _variants(name: str) -> list[str]:
    """Returns the ways to read a name, as it stands first."""
    plain = name.replace('\\', '/')
    texts = [plain, unquote(plain)]
    if '?d=' in plain:  # a local file that Label Studio serves
        texts.append(unquote(plain.split('?d=', 1)[1]))
    return list(dict.fromkeys(texts))


def _search(
    names: Sequence[str],
    sizes: Mapping[str, tuple[float, float]],
    folder: DataFolder,
    candidates: Sequence[Path],
    split: str,
) -> dict[str, str]:
    """Finds pictures whose name in the file does not lead to them from the likeliest folder."""
    by_base = defaultdict(list)
    for image in folder.files:
        if split_of_folders(folder.parts(image)) in (None, split):
            by_base[_normal(image.name)].append(os.fspath(image))
    found = {}
    for name in names:
        size = sizes.get(name)
        for choose in (_in_candidates(folder, candidates, size), _by_tail(by_base, size)):
            path = next(filter(None, map(choose, _variants(name))), None)
            if path is not None:
                found[name] = path
                break
    times = Counter(found.values())
    return {name: path for name, path in found.items() if times[path] == 1}


def _in_candidates(
    folder: DataFolder, candidates: Sequence[Path], size: tuple[float, float] | None
) -> Callable[[str], str | None]:
    def choose(variant: str) -> str | None:
        for base in candidates:
            path = os.path.normpath(base / variant)
            if Path(path).is_relative_to(folder.root) and _is_file(folder, base, variant):
                return path if _has_size(path, size) else None
        return None

    return choose


def _by_tail(
    by_base: Mapping[str, Sequence[str]], size: tuple[float, float] | None
) -> Callable[[str], str | None]:
    def choose(variant: str) -> str | None:
        base = _normal(posixpath.basename(variant))
        files = by_base.get(base) or by_base.get(_UPLOAD.sub('', base, count=1)) or ()
        if not files:
            return None
        tails = [_common_tail(file, variant) for file in files]
        longest = [f for f, tail in zip(files, tails, strict=True) if tail == max(tails)]
        return longest[0] if len(longest) == 1 and _has_size(longest[0], size) else None

    return choose


def _normal(name: str) -> str:
    # Archives of macOS have composed letters apart.
    return unicodedata.normalize('NFC', name)


def _common_tail(path: str, name: str) -> int:
    """Returns the number of parts at the end that two paths share."""
    count = 0
    for a, b in zip(reversed(path.split('/')), reversed(name.split('/')), strict=False):
        if _normal(a) != _normal(b):
            break
        count += 1
    return count


def _has_size(path: str, size: tuple[float, float] | None) -> bool:
    try:
        header = read_header(Path(path))
    except (InputError, OSError):
        return False
    return size is None or size in (header.stored_size, header.shown_size)


def _base_of(paths: Mapping[str, str]) -> str | None:
    """Returns the folder from which all names lead to their pictures, if there is one."""
    bases = {
        path[: -len(name) - 1] if path.endswith(f'/{name}') else None
        for name, path in paths.items()
    }
    return bases.pop() if len(bases) == 1 else None
