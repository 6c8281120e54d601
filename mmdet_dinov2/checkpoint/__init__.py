"""Checkpoints: pure functions over state dicts."""

from .loading import load_state_dict

__all__ = ['load_state_dict']
