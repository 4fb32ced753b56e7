"""Folder and file formats of pruned models."""
