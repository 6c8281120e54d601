"""Configs: reading them as data, writing them as text, checking, rescaling, own types."""
