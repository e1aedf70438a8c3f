"""``distnum submit``: jobs on a Ray cluster, reached over HTTP at the address of its dashboard.

``command`` has the options, ``client`` submits, lists, stops and fetches, ``follow`` prints a
job's output, ``connection`` holds address, token and errors of the HTTP client, and ``transfer``
what this side and the cluster's head agree on. May import ``distnum.cli.options`` and ``output``,
and every package below the command line.
"""
