"""Kubeflow Pipelines from outside: connect, upload, run, follow.

Importing a module of this package imports kfp, so commands do so after parsing.
"""
