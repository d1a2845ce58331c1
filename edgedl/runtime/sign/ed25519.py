"""Ed25519 signatures checked in plain Python (RFC 8032); nothing here ever holds a secret.

It is strict: S below the group's order, points encoded canonically, no public key of small order,
and R compared as bytes, without the cofactor, as OpenSSL compares it. So one message has one
signature by one nonce, and every machine gives the same verdict, whatever else is installed.
Two scalars are multiplied at once, in windows of four bits (Straus): one to three milliseconds.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
KEY_BYTES, SIGNATURE_BYTES = 32, 64
WINDOW_BITS = 4


class Point(NamedTuple):
    """A point of the curve in extended coordinates: x = X/Z, y = Y/Z, T = XY/Z."""

    x: int
    y: int
    z: int
    t: int


IDENTITY = Point(0, 1, 1, 0)


def is_sound(public: bytes) -> bool:
    """Whether these 32 bytes are a public key: a point, encoded canonically, of no small order."""
    return _key(public) is not None


def verified(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is `public`'s of `message` (RFC 8032, 5.1.7)."""
    key = _key(public)
    s = int.from_bytes(signature[32:], "little")
    if key is None or len(signature) != SIGNATURE_BYTES or s >= ORDER:
        return False
    challenge = hashlib.sha512(signature[:32] + public)
    challenge.update(message)
    k = int.from_bytes(challenge.digest(), "little") % ORDER
    minus_key = Point(P - key.x, key.y, 1, P - key.t)
    return _encoded(_combined(s, _base_multiples(), k, _multiples(minus_key))) == signature[:32]


def _key(public: bytes) -> Point | None:
    """A public key's point; None where it is none, or eight times it is the identity."""
    point = _decoded(public)
    if point is None or _is_identity(_doubled(_doubled(_doubled(point)))):
        return None
    return point


def _decoded(data: bytes) -> Point | None:
    """The point that 32 bytes stand for (5.1.3); None where they stand for none, or not in the one
    way in which they should."""
    if len(data) != KEY_BYTES:
        return None
    number = int.from_bytes(data, "little")
    y, odd = number & (1 << 255) - 1, number >> 255
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * v**3 * pow(u * v**7 % P, (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if v * x * x % P != u or (x == 0 and odd):
        return None
    if x & 1 != odd:
        x = P - x
    return Point(x, y, 1, x * y % P)


def _encoded(point: Point) -> bytes:
    inverse = pow(point.z, -1, P)
    x, y = point.x * inverse % P, point.y * inverse % P
    return (y | (x & 1) << 255).to_bytes(KEY_BYTES, "little")


def _is_identity(point: Point) -> bool:
    return point.x == 0 and (point.y - point.z) % P == 0


def _added(p: Point, q: Point) -> Point:
    a = (p.y - p.x) * (q.y - q.x) % P
    b = (p.y + p.x) * (q.y + q.x) % P
    c = 2 * D * p.t * q.t % P
    d = 2 * p.z * q.z
    e, f, g, h = b - a, d - c, d + c, b + a
    return Point(e * f % P, g * h % P, f * g % P, e * h % P)


def _doubled(p: Point) -> Point:
    a, b = p.x * p.x, p.y * p.y
    c = 2 * p.z * p.z
    h = a + b
    e = h - (p.x + p.y) ** 2
    g = a - b
    f = c + g
    return Point(e * f % P, g * h % P, f * g % P, e * h % P)


def _multiples(point: Point) -> tuple[Point, ...]:
    """0 to 15 times the point."""
    found = [IDENTITY]
    for _ in range((1 << WINDOW_BITS) - 1):
        found.append(_added(found[-1], point))
    return tuple(found)


@cache
def _base_multiples() -> tuple[Point, ...]:
    """0 to 15 times the group's base point, of which y is 4/5 and x is even."""
    base = _decoded((4 * pow(5, -1, P) % P).to_bytes(KEY_BYTES, "little"))
    assert base is not None, "the base point is a point"
    return _multiples(base)


def _combined(s: int, of_s: tuple[Point, ...], k: int, of_k: tuple[Point, ...]) -> Point:
    """s times the one point plus k times the other."""
    total, last = IDENTITY, (1 << WINDOW_BITS) - 1
    for shift in range(256 - WINDOW_BITS, -1, -WINDOW_BITS):
        for _ in range(WINDOW_BITS):
            total = _doubled(total)
        for digit, table in ((s >> shift & last, of_s), (k >> shift & last, of_k)):
            if digit:
                total = _added(total, table[digit])
    return total
