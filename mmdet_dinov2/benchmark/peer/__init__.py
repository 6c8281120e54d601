"""Peers in environments of their own, which may lack this project and its packages."""
