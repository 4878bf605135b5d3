"""Checks before a GPU is requested: the recipe, the form, the storage, the cluster."""
