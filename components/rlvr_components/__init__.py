"""The steps of the pipeline as KFP components, and the places where a training job can run."""
