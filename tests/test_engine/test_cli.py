"""What the command lines share."""

import pytest
import torch.distributed as dist

from mmdet_dinov2.engine import cli


@pytest.fixture
def group():
    """A process group of this process alone."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_the_process_group_is_taken_apart_at_the_end(group):
    with cli.joined_processes():
        assert dist.is_initialized()
    assert not dist.is_initialized()


def test_the_process_group_is_taken_apart_when_all_are_asked_to_stop(group):
    with pytest.raises(SystemExit, match='75'), cli.joined_processes():
        raise SystemExit(75)
    assert not dist.is_initialized()


def test_an_error_does_not_wait_for_the_other_processes(group):
    with pytest.raises(RuntimeError), cli.joined_processes():
        raise RuntimeError
    assert dist.is_initialized()


def test_without_a_process_group():
    with cli.joined_processes():
        pass
