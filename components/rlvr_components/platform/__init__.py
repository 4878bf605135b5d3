"""The platform of jobs: images, settings, and Kubernetes' quantities."""
