"""The pipeline, runs of it here and elsewhere, and the command line."""
