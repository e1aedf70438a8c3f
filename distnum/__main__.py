"""``python -m distnum`` is ``distnum``."""

from distnum.cli import run

if __name__ == "__main__":
    run()
