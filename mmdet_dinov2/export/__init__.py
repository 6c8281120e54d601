"""Detectors as files that need no PyTorch, proven against the detector that they come from."""
