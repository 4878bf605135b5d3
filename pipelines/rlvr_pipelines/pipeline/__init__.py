"""The pipeline: its definition, its package for Kubeflow, and the plan of a run."""
