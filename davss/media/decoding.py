"""Recordings are opened here, by content and never by name: files, streams and packets, through
PyAV, with whatever is wrong in the user's terms.
"""

from __future__ import annotations

import contextlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.codec.context import Flags2
from av.stream import Disposition

from davss.errors import OUTAGES, DavssError, StorageError, outage, outages_explained
from davss.media import headers
from davss.storage.kinds import kind_of

# What may be opened: no play lists, which would lead to other files and servers.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dhav,dsf,dss,dts,dv,eac3,flac,flv,gif,gxf,"
    "h264,hevc,iff,ivf,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nistsphere,nut,obu,"
    "ogg,oma,qcp,rm,shn,tak,tta,voc,w64,wav,wtv,wv,xwma,yuv4mpegpipe"
)
SOUND = ".wav .flac .ogg .opus .mp3 .m4a .aac .aif .aiff .au .caf .w64 .mp4 .mkv .mov .webm .avi"
SUFFIXES = frozenset(SOUND.split())  # of what is called a recording, whatever it is
HEADERLESS = frozenset({".vox", ".gsm"})  # of telephony, known by nothing else
LFS_POINTER = b"version https://git-lfs.github.com/"
# Headers of these say how long each stream is, or how many units of its time base.
WITH_DURATIONS, WITH_COUNTS = {"mov", "flac"}, {"avi", "caf"}
WITH_LENGTH = {"matroska", "flv"}  # … or how long the longest is, but for the delay of codecs
UNREADABLE = (
    "not a recording that can be read (truncated or corrupt?); convert it with a program that "
    "plays it"
)
WITHOUT_INDEX = (
    "breaks off before its index is complete, nothing can be read; look for a longer copy, or have "
    "its index rebuilt, as untrunc does"
)
PROTECTED = {"drms", "drmi", "aavd"}  # what iTunes and Audible call sound and picture with a lock
WITHOUT_HEADER = (
    "samples without a header, whose rate and kind nothing says; give them one, as with "
    "`ffmpeg -f s16le -ar RATE -ac CHANNELS -i IN OUT.wav`"
)
ENCRYPTED = "{}: its {} is encrypted (copy protection); get a copy that is not"
LAST = 2  # packets at the end that may be broken: what is cut off breaks one
LOSSLESS = ("pcm", "flac", "alac")
# What PyAV raises for bad data, OSError for places outside of the file.
BROKEN = (av.FFmpegError, OSError, ValueError, IndexError, OverflowError)


def require_file(path: str | Path) -> Path:
    """Path of a non-empty file that may be read; raises DavssError naming it otherwise."""
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DavssError(f"{path}: a folder; give a file")
        if not stat.S_ISREG(status.st_mode):
            raise DavssError(f"{path}: a pipe or device; copy it to a file first")
        if status.st_size == 0:
            raise DavssError(f"{path}: the file is empty (0 bytes); look for another copy of it")
        with open(path, "rb") as stream:
            start = stream.read(len(LFS_POINTER))
    except (FileNotFoundError, NotADirectoryError):
        raise DavssError(f"{path}: no such file; check the path") from None
    except OSError as error:
        if error.errno in OUTAGES:
            raise outage(error, path) from None
        mend = "fix its permissions" if isinstance(error, PermissionError) else "check the path"
        raise DavssError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    if start == LFS_POINTER:
        raise DavssError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
    return path


class AbsentError(DavssError):
    """A recording that is whole, without what is asked for."""


class _File(io.FileIO):
    """A file that keeps what its disk failed with: FFmpeg takes that for the file's end."""

    error: OSError | None = None

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            self.error = error if error.errno in OUTAGES else None
            raise


class _Reader(io.BufferedReader):
    """A file in which a broken index may point anywhere: PyAV prints a trace of what is raised."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


@contextlib.contextmanager
def open_container(path: Path, **options: str) -> Iterator[Any]:
    """The container at `path`; DavssError when it is none, or not whole enough to be read, and
    StorageError when the disk or share that it is on fails meanwhile.
    """
    options["format_whitelist"] = FORMATS
    with outages_explained(path), _File(path) as file, _Reader(file) as reader:
        try:
            # tags may be in any encoding
            container = av.open(reader, options=options, metadata_errors="replace")
        except BROKEN:
            if file.error:
                raise file.error from None
            raise DavssError(f"{path}: {_why_unreadable(path)}") from None
        with container:
            try:
                yield container
            finally:
                if file.error:
                    raise file.error from None


def _why_unreadable(path: Path) -> str:
    kind = kind_of(path) or "a recording"
    if path.suffix.lower() in (".raw", ".pcm") and kind == "a recording":
        return WITHOUT_HEADER
    if headers.breaks_off(path):
        return WITHOUT_INDEX
    if kind.endswith(("recording", "video")):
        return UNREADABLE
    return kind if ";" in kind else f"{kind}, not a recording that can be read; give another file"


def find_stream(container: Any, kind: str, path: Path) -> Any:
    """The main "audio" or "video" stream that can be decoded, no cover; DavssError without one."""
    return find_streams(container, kind, path)[0]


def find_streams(container: Any, kind: str, path: Path) -> list[Any]:
    """All of them, the main one first."""
    able = [
        stream
        for stream in container.streams
        if stream.type == kind
        and stream.codec_context is not None
        and not stream.disposition & Disposition.attached_pic
    ]
    if not able and headers.breaks_off(path):
        raise DavssError(f"{path}: {WITHOUT_INDEX}")
    if not able:
        name = "sound" if kind == "audio" else "moving picture"
        if any(
            stream.type == kind and stream.codec_context is None for stream in container.streams
        ):
            raise DavssError(
                f"{path}: its {name} is in a format that is not known here; convert it with a "
                "program that plays it"
            )
        raise AbsentError(f"{path}: has no {name}; choose a file with one")
    for stream in able:
        stream.thread_type = "NONE"  # shards are made by one process a core
    best = container.streams.best(kind)
    return sorted(able, key=lambda stream: stream is not best)


def is_headerless(path: Path) -> bool:
    """Whether `path` bears the name of telephone sound without a header, and is nothing else."""
    if path.suffix.lower() not in HEADERLESS or kind_of(path):
        return False
    try:
        with open_container(path):
            return False
    except DavssError as error:
        return not isinstance(error, StorageError)  # which is met again


def has_stream(path: Path, kind: str) -> bool:
    """Whether `path` is a recording with an "audio" or "video" stream that is no cover."""
    return _why_without(path, kind) is None


def is_recording(path: Path) -> bool:
    """Whether `path` has sound, or bears the name of a recording and cannot be read."""
    error = _why_without(path, "audio")
    named = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    return error is None or (named and not isinstance(error, AbsentError))


def _why_without(path: Path, kind: str) -> DavssError | None:
    try:
        if kind == "audio" and is_headerless(require_file(path)):
            return None
        with open_container(require_file(path)) as container:
            find_stream(container, kind, path)
    except StorageError:
        raise
    except DavssError as error:
        return error
    return None


def sound_start(path: Path) -> float | None:
    """When the sound of a file begins on its clock, in s; None for one without sound."""
    with open_container(path) as container:
        streams = [one for one in container.streams if one.type == "audio" and one.codec_context]
        starts = [float((one.start_time or 0) * one.time_base) for one in streams]
    return min(starts, default=None)


def _is_protected(stream: Any) -> bool:
    try:
        return stream.codec_context.codec_tag in PROTECTED
    except UnicodeDecodeError:  # a number of other kinds than mp4, which PyAV takes for letters
        return False


class Packets:
    """The packets of one stream, and what came of reading them.

    Gone through, `lost` says how many were broken, but for a few at the end, and `encrypted`
    whether no more than a key was missing.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self.stream, self.lost = container, stream, 0
        self.format = container.format.name.split(",")[0]
        asf = self.format == "asf"
        self.encrypted = _is_protected(stream) or (asf and headers.asf_is_encrypted(container.name))
        self._end, self._longest = 0.0, 0.0  # of the packets read, in s
        self._alac = self.format == "caf" and stream.codec_context.name == "alac"
        if self._alac:
            # FFmpeg's own files have a short last packet, of which it would cut the rest again
            stream.codec_context.flags2 |= Flags2.skip_manual

    def frames(self) -> Iterator[Any]:
        """Decoded frames, as they are shown; a packet that cannot be decoded is left out."""
        broken, any_decoded, in_parts = 0, False, self.stream.codec_context.name.startswith("pcm")
        if self.encrypted:
            return
        for packet in self._read():
            if packet.stream is not self.stream:
                continue
            if packet.has_sidedata("encryption_info"):
                self.encrypted = True
                return
            try:
                if packet.is_corrupt and not in_parts:
                    raise av.InvalidDataError(0, "corrupt")
                frames = packet.decode()
            except BROKEN:
                broken += not bytes(packet).startswith(headers.TAGS)  # as where mp3s are joined
                continue
            if frames:
                self.lost, broken, any_decoded = self.lost + broken, 0, True
            yield from frames
        if any_decoded and broken > LAST:
            self.lost += broken

    def _read(self) -> Iterator[Any]:
        packets = self._container.demux(*([] if self.format in WITH_LENGTH else [self.stream]))
        while True:
            try:
                packet = next(packets)
            except (StopIteration, *BROKEN):
                return
            at = packet.dts if packet.pts is None else packet.pts
            if at is not None and packet.size:
                length = float((packet.duration or 0) * packet.time_base)
                self._end = max(self._end, float(at * packet.time_base) + length)
                self._longest = max(self._longest, length)
            yield packet

    @property
    def promised(self) -> float | None:
        """When the stream is to end, in s of its own clock, as its header says, if it does."""
        stream = self.stream
        start = stream.start_time or 0
        if (self.format in WITH_DURATIONS or self._alac) and stream.duration:
            return float((start + stream.duration) * stream.time_base)
        if self.format in WITH_COUNTS and stream.frames:
            return float((start + stream.frames) * stream.time_base)
        if self.format in WITH_LENGTH and self._container.duration:
            return self._container.duration / av.time_base
        return None

    def falls_short(self, end: float) -> bool:
        """Whether a stream decoded up to `end` s has less than its header promises."""
        if self.promised is None:
            return False
        if self.format in WITH_LENGTH:
            return max(end, self._end) < self.promised - 2 * self._longest - 2e-3
        exact = self.stream.codec_context.name.startswith(LOSSLESS)
        return end < self.promised - (1e-6 if exact else 0.5 * self._longest)
