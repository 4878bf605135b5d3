"""The commands that help to write a recipe."""
