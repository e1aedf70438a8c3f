"""``python -m distnum`` is ``distnum``."""

from distnum.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
