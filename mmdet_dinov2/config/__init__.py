"""Configs: read as data, written as text, their names checked, rescaled to other GPUs."""
