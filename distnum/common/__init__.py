"""What several folders share: errors, events, array types, value checks, random numbers, text, facts on the machine.

Add a module here only if modules of at least two other folders import it; with one user it belongs to that user's
folder. This folder imports nothing else of distnum.
"""
