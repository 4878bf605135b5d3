"""A client of Kubeflow Pipelines: connect, upload, run, follow.

Its modules import kfp, so commands import them after parsing.
"""
