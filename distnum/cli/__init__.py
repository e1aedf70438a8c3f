"""The command line: parses options, calls the library, prints results and remarks.

Each command is an entry in ``commands.COMMANDS``: a function that adds its options and a function
that runs it. A command computes nothing itself; what is useful from Python, too, belongs in a
package below. This package may import every other one. Only ``__main__`` imports it, and nothing
imports ``on_cluster``, which runs on a cluster's head.
"""
