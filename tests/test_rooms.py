"""Imports between the rooms (folders) of the package, as CONTRIBUTING.md allows them."""

import ast
import re
import sys

import pytest

# Modules beside the rooms, which everybody may use.
SHARED = {
    'errors',
    'files',
    'instance_masks',
    'large_image',
    'mask_outlines',
    'peak_memory',
    'quiet_logging',
    'sample_meta',
    'version',
    'wording',
}


@pytest.fixture(scope='module')
def allowed(root):
    """Rooms that each room may import, from the table."""
    table = re.findall(
        r'^\| `(\w+)/` \| .* \| (.*?) ?\|$', (root / 'CONTRIBUTING.md').read_text(), re.M
    )
    rooms = {name: set(re.findall(r'\w+', others)) for name, others in table}
    rooms.pop('tools')
    order = list(rooms)
    for room in ('analysis', 'cli'):
        rooms[room] = set(order[: order.index(room)])
    rooms['benchmark'] = rooms['analysis']
    return rooms


def imports_of(path, package):
    """Absolute names of all modules that a file imports."""
    parts = ['mmdet_dinov2', *path.relative_to(package).with_suffix('').parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(parts[: -node.level]) if node.level else ''
            module = '.'.join(filter(None, (base, node.module)))
            yield module
            if module == 'mmdet_dinov2':
                yield from (f'{module}.{alias.name}' for alias in node.names)


def test_every_room_is_in_the_table(root, allowed):
    folders = {p.parent.name for p in (root / 'mmdet_dinov2').glob('*/__init__.py')}
    assert folders == set(allowed)


def test_rooms_come_after_those_that_they_import(allowed):
    order = list(allowed)
    for room, below in allowed.items():
        assert below & set(order) <= set(order[: order.index(room)]), room


def test_rooms_import_what_lies_below_them(root, allowed):
    package = root / 'mmdet_dinov2'
    wrong = []
    for room, below in allowed.items():
        for path in sorted((package / room).rglob('*.py')):
            for name in imports_of(path, package):
                first, _, rest = name.partition('.')
                target = rest.partition('.')[0]
                if first == 'mmdet_dinov2' and target and target not in {room, *below} | SHARED:
                    wrong.append(f'{path.relative_to(root)} imports {name}')
    assert wrong == []


@pytest.mark.parametrize(
    ('room', 'packages'), [('layers', {'torch', 'triton'}), ('environment', {'torch'})]
)
def test_rooms_without_other_packages(root, room, packages):
    package = root / 'mmdet_dinov2'
    known = set(sys.stdlib_module_names) | packages | {'mmdet_dinov2'}
    for path in (package / room).rglob('*.py'):
        assert {name.partition('.')[0] for name in imports_of(path, package)} <= known, path
