"""Numerical engines of the estimators: plain functions on arrays.

Nothing here imports nilearn or nibabel except :mod:`~llmbrain.networks.engines.nilearn_engine`.
"""
