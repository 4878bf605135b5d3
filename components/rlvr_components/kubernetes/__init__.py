"""The Kubernetes API server: credentials, requests, watches and logs of any objects.

The official client finds the credentials; retries, watches and log streams that continue after a
broken connection are added here.
"""
