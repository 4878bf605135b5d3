"""The commands of `rlvr`, one module each."""
