"""A run on this machine: its run directory, its processes, its progress."""
