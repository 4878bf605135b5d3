"""What the launcher says to the API server about jobs, and what it makes of the answers.

Plain dicts and paths, over urllib3: the generated client takes two seconds and 70 MB to import, and
its watch and log streams end or hang where these continue.
"""
