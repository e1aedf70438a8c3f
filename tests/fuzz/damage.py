"""How valid files are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

__all__ = ["damaged"]

# Bytes that are often wrong in headers and texts.
_EDGES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8, b"\0" * 8, b"\0" * 512]
_EDGES += [b"1e999", b"'", b'"', b"\n", b"\x1b[2J", b"\xc2\x9b", "\u202e".encode(), b"/../", b"://a:b@", b"[" * 5000]

# Half of the damage is near the start, where headers are.
_NEAR_START = 160


def damaged(corpus: Sequence[bytes], random: Random) -> bytes:
    """Return one of the files with some of its bytes changed, inserted, deleted, repeated or moved."""
    content = bytearray(random.choice(corpus))
    for _ in range(random.randint(1, 4)):
        end = len(content) if random.random() < 0.5 else min(len(content), _NEAR_START)
        position = random.randint(0, end)
        kind = random.randrange(8)
        if kind == 0 and position < len(content):
            content[position] ^= 1 << random.randrange(8)
        elif kind == 1:
            edge = random.choice(_EDGES)
            content[position : position + len(edge)] = edge
        elif kind == 2:
            content[position:position] = random.randbytes(random.randrange(12))
        elif kind == 3:
            del content[position : position + random.randint(1, 40)]
        elif kind == 4:
            content[position:position] = content[position : position + random.randint(1, 40)]
        elif kind == 5:
            digits = str(random.randint(-(2 ** random.randint(1, 70)), 2 ** random.randint(1, 70))).encode()
            content[position : position + random.randint(0, len(digits))] = digits
        elif kind == 6:
            del content[position:]
        elif kind == 7:
            content[position:position] = random.choice(_EDGES)
    return bytes(content)
