"""Records in a file that may be cut short by a kill or damaged on the disk: a frame with length and checksum each.

    ff 57 42 fe | length of the payload | crc32 of what follows | number | payload

Written by one call, a frame is there or is not. What is damaged costs no other frame: the next one is found by its
first bytes and believed for its checksum.
"""

import zlib
from collections.abc import Iterator
from struct import Struct as Layout
from typing import NamedTuple

MAGIC = b"\xffWB\xfe"  # cannot be within UTF-8 text, which a letter mostly is
_HEAD = Layout(">4sIIQ")
_NUMBER = Layout(">Q")
MAX_FRAME = 64 * 1024**2  # a length beyond it is damage


class Frame(NamedTuple):
    """A frame as read: the number of its first event, what it holds, and where the next frame begins."""

    number: int
    payload: bytes
    end: int


def frame(number: int, payload: bytes) -> bytes:
    """The bytes of a frame."""
    checksum = zlib.crc32(payload, zlib.crc32(_NUMBER.pack(number)))
    return _HEAD.pack(MAGIC, len(payload), checksum, number) + payload


def frames(data: bytes, *, growing: bool = False) -> Iterator[Frame]:
    """The whole, undamaged frames of a file's bytes, in order; damaged ones are left out.

    Of a file that is `growing`, what ends with the data may just be on its way; it is not passed over.

    >>> data = frame(1, b"one") + frame(2, b"two")
    >>> [f.payload for f in frames(data)], [f.payload for f in frames(data[:-1])]
    ([b'one', b'two'], [b'one'])
    """
    at = 0
    while at + _HEAD.size <= len(data):
        magic, length, checksum, number = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if magic == MAGIC and length <= MAX_FRAME and end <= len(data):
            payload = data[at + _HEAD.size : end]
            if zlib.crc32(payload, zlib.crc32(_NUMBER.pack(number))) == checksum:
                yield Frame(number, payload, end)
                at = end
                continue
            if growing and end == len(data):
                return
        at = data.find(MAGIC, at + 1)
        if at < 0:
            return
