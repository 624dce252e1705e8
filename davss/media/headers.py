"""What headers claim: how much sound a wav file has, which one written to a pipe or by a recorder
that crashed does not know, and how long files of other kinds are.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

# What is written for a length that is not known yet, less up to a header's size.
PLACEHOLDERS = (0x7FFFF000, 0x80000000, 0x100000000)
HEADER = 4096
WAVS = (b"RIFF", b"RF64", b"BW64")
FIELDS = (0, 2, 12, 14)  # of "fmt ": format, channels, bytes of a block, bits of a sample
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LIST", b"id3 ", b"RIFF")
BOXES = (b"ftyp", b"mdat", b"moov", b"wide", b"free", b"skip", b"styp")
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_LOCKS = (  # its objects of content encryption: plain, extended and advanced
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
    bytes.fromhex("338505438169e6499b74ad12cb86d58c"),
)
OGG_PAGE = 1 << 17  # bytes: no page is longer than half of it
# Frames of DTS, of 16 and 14 bits, and of what S/PDIF carries, as samples of 16 bits.
SYNCS = re.compile(
    rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x1f\xff\xe8\0|\xff\x1f\0\xe8|\x72\xf8\x1f\x4e"
)
LOOKED_AT = 1 << 20  # bytes of sound: six seconds of a disc, which may begin with silence


def claimed_sound(path: Path) -> tuple[int, int] | None:
    """Blocks of sound that the header claims, and how many there are, a block being a sample of
    every channel unless they are compressed; (0, 0) for what is no wav file; None where the header
    does not know, and the sound goes on to the end of the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        begin = wav_start(file)
        if begin is None:
            return 0, 0
        claim, left, block = _data(file, size, begin)
        end = size - left + claim + claim % 2
        more = size - end >= block and not _is_text(file, end, size)
        if (2 * claim < left or more) and not _more_chunks(file, end, size):
            return None  # sound came after the header was last written
        file.seek(begin)
        short = file.read(4) == b"RIFF"
    if claim > left and _unknown(claim):
        return None
    if short and left - claim >= 1 << 32:  # longer than the header can say
        return None
    return claim // block, left // block


def wav_start(file: BinaryIO) -> int | None:
    """Where a wav file begins, behind a tag or zeros; None for another kind of file."""
    at = 0
    file.seek(0)
    if (start := file.read(10)).startswith(b"ID3"):
        at = 10 + _seven_bits(start[6:10])
    file.seek(at)
    start = file.read(HEADER)
    at += len(start) - len(start := start.lstrip(b"\0"))
    return at if start[:4] in WAVS and start[8:12] == b"WAVE" else None


def carries_bitstream(path: Path) -> bool:
    """Whether what a wav file calls samples looks like DTS or AC-3, as discs with surround sound
    and recorders of S/PDIF have it: read as samples, it is loud noise.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        begin = wav_start(file)
        for name, start, length in _chunks(file, size, size if begin is None else begin):
            if name == b"data":
                file.seek(start)
                sound = file.read(min(length or size, LOOKED_AT))
                return len(SYNCS.findall(sound)) > 1
    return False


def rewritten(path: Path, *, to_the_end: bool) -> list[io.BytesIO]:
    """What libsndfile does not read, or not all of it, as plain wav files, one for every format: a
    wav file behind a tag or zeros, one with several chunks of sound, several wav files in one, one
    with a chunk of an odd length that is not filled up, and one that does not say how many bits a
    sample has. Empty if there is no need.

    to_the_end: whether the last chunk of sound goes on to the end of the file.
    """
    size, kind = path.stat().st_size, b""
    parts: list[tuple[bytes, int, int]] = []
    with open(path, "rb") as file:
        begin = wav_start(file)
        if begin is None:
            return []
        odd = begin > 0
        for name, start, length in _chunks(file, size, begin):
            odd |= (start - begin) % 2 == 1
            if name == b"fmt ":
                file.seek(start)
                found = file.read(min(length, HEADER))
                kind = _with_bits(found)
                odd |= kind != found
            elif name == b"data" and (length or to_the_end):
                parts.append((kind, start, min(length, size - start)))
        if to_the_end and parts:
            parts[-1] = (*parts[-1][:2], size - parts[-1][1])
        if len(parts) < 2 and not odd:
            return []
        return [_wav(file, *run) for run in groupby(parts, key=lambda part: part[0])]


def _with_bits(kind: bytes) -> bytes:
    """The content of "fmt ", of PCM that does not say how many bits a sample has, with them."""
    tag, channels, block, bits = (int.from_bytes(kind[at : at + 2], "little") for at in FIELDS)
    if (
        tag != 1
        or bits
        or not channels
        or block % channels
        or block // channels not in (1, 2, 3, 4)
    ):
        return kind
    return kind[:14] + (8 * block // channels).to_bytes(2, "little") + kind[16:]


def _wav(file: BinaryIO, kind: bytes, parts: Iterable[tuple[bytes, int, int]]) -> io.BytesIO:
    sound, parts = io.BytesIO(), list(parts)
    total = min(sum(length for _, _, length in parts), 0xFFFFFFFF)
    sound.write(b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", len(kind)) + kind)
    sound.write(b"data" + struct.pack("<I", total))
    for _, start, length in parts:
        file.seek(start)
        sound.write(file.read(length))
    sound.seek(0)
    return sound


def _data(file: BinaryIO, size: int, begin: int) -> tuple[int, int, int]:
    """Bytes of the data chunk as its header says, bytes from there on, and bytes of a block."""
    long, block = 0, 1
    for name, start, length in _chunks(file, size, begin):
        file.seek(start)
        if name == b"data":
            claim = long if long and length == 0xFFFFFFFF else length
            return claim, size - start, block
        if name == b"ds64":
            long = int.from_bytes(file.read(16)[8:], "little")
        if name == b"fmt ":
            block = int.from_bytes(file.read(16)[12:14], "little") or 1
    return 0, 0, block


def _unknown(claim: int) -> bool:
    return any(0 <= mark - claim <= HEADER for mark in PLACEHOLDERS)


def _chunks(file: BinaryIO, size: int, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and length in bytes of all chunks, also of a wav file after the first."""
    while at + 8 <= size:
        file.seek(at)
        header = file.read(HEADER)
        if zeros := len(header) - len(header.lstrip(b"\0")):
            at += zeros
            continue
        if header[:4] in WAVS and header[8:12] == b"WAVE":
            at += 12
            continue
        if not _is_name(header[:4]):
            return
        length = int.from_bytes(header[4:8], "little")
        yield header[:4], at + 8, length
        at += 8 + length
        file.seek(at)
        at += length % 2 and not _is_name(file.read(4))  # some do not fill up odd lengths


def _is_name(start: bytes) -> bool:
    return len(start) == 4 and start.isascii() and start.decode().isprintable()


def _is_text(file: BinaryIO, at: int, size: int) -> bool:
    """Whether no sound begins there: a tag, a chunk out of place, or nothing but zeros."""
    file.seek(at)
    start = file.read(HEADER)
    if start.startswith(TAGS) or not start.strip(b"\0"):
        return True
    start = start.lstrip(b"\0")
    if _is_name(start[:4]) and int.from_bytes(start[4:8], "little") <= size - at:
        return True
    return start[:16].isascii() and start[:16].decode().isprintable()


def _more_chunks(file: BinaryIO, at: int, size: int) -> bool:
    """Whether well-formed chunks follow, to the end of the file: then there was no sound."""
    end = at
    for _, start, length in _chunks(file, size, at):
        end = start + length
    return size <= end <= size + 1 or end + 1 == size or at == size


def breaks_off(path: Path) -> bool:
    """Whether a file of the kinds of mp4, Matroska, ASF, Ogg, AVI, AIFF, Wave64 or mp3 ends before
    its header says.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(HEADER)
        if start[4:8] in BOXES:
            return _boxes_end(file, size) > size
        if start[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska_end(start) > size
        if start[:4] == b"\x30\x26\xb2\x75" and (at := start.find(ASF_PROPERTIES)) > 0:
            return int.from_bytes(start[at + 40 : at + 48], "little") > size
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            length = int.from_bytes(start[4:8], "little")
            return length + 8 > size and not _unknown(length)
        if start[:4] == b"FORM":
            return int.from_bytes(start[4:8], "big") + 8 > size
        if start[:4] == b"riff":
            return int.from_bytes(start[16:24], "little") > size
        if start[:3] == b"ID3" or start[:1] == b"\xff":
            return _xing_end(file, start) > size
        if start[:4] == b"OggS":
            file.seek(max(0, size - OGG_PAGE))
            return not _ends_with_page(file.read())
    return False


def asf_is_encrypted(path: str | Path) -> bool:
    """Whether the header of an ASF file, as wma and wmv are, says that its packets are."""
    with open(path, "rb") as file:
        start = file.read(24)
        header = file.read(min(int.from_bytes(start[16:24], "little"), 1 << 20))
    return any(lock in header for lock in ASF_LOCKS)


def _boxes_end(file: BinaryIO, size: int) -> int:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8 or not header[4:8].isalnum():  # to the end of the file, or no box
            return 0
        at += length
    return at


def _xing_end(file: BinaryIO, start: bytes) -> int:
    """Where an mp3 file ends that says so in its first frame, 0 for one that does not."""
    at = 0
    if start[:3] == b"ID3":
        at = 10 + _seven_bits(start[6:10])
    file.seek(at)
    frame = file.read(200)
    for name in (b"Xing", b"Info"):
        place = frame.find(name)
        if place > 0 and frame[place + 7 : place + 8] and frame[place + 7] & 2:
            field = place + 8 + 4 * (frame[place + 7] & 1)
            return at + int.from_bytes(frame[field : field + 4], "big")
    return 0


def _seven_bits(number: bytes) -> int:
    return sum((byte & 127) << 7 * (3 - n) for n, byte in enumerate(number))


def _ends_with_page(end: bytes) -> bool:
    """Whether the last page of Ogg in `end` is whole and said to be the last."""
    page = end[max(end.rfind(b"OggS"), 0) :]
    if page[:4] != b"OggS" or len(page) < 27 or not page[5] & 4:
        return False
    return len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _matroska_end(start: bytes) -> int:
    """Where the segment ends, 0 if that is not known; `start` is the beginning of the file."""
    at, (length, width) = 4, _ebml_number(start, 4)
    at += width + (length or 0)  # the header, then the segment
    if start[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    length, width = _ebml_number(start, at + 4)
    return 0 if length is None else at + 4 + width + length


def _ebml_number(start: bytes, at: int) -> tuple[int | None, int]:
    """The size of an element, None where it is not known, and the bytes that it takes."""
    if not start[at : at + 1] or not start[at]:
        return None, 1
    width = 9 - start[at].bit_length()
    number = int.from_bytes(start[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (None if number == (1 << 7 * width) - 1 else number), width
