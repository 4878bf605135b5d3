"""The pipeline, its plan, the local runner and the command line."""
