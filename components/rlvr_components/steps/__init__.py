"""The steps of the pipeline: KFP components, and the functions that their bodies call."""
