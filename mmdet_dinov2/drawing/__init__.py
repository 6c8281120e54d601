"""Boxes on pictures, drawn the same everywhere. Importing registers the visualizer."""

from .visualizer import BoxVisualizer

__all__ = ['BoxVisualizer']
