"""Define, read and compare recipes."""
