"""Jobs in a cluster, outside the pipeline: list, plan, read, stop, delete."""
