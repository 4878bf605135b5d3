"""The Kubernetes API server: credentials, requests, watches and logs, whatever the objects are.

The official client's configuration and transport, with retries, watches and log streams that
continue after a broken connection on top.
"""
