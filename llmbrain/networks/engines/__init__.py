"""The numerical engines behind the estimators: plain functions on arrays, without files, hooks or globals.

Nothing here imports nilearn or nibabel except :mod:`~llmbrain.networks.engines.nilearn_engine`.
"""
