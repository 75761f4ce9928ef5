"""Fetching an archive: only when asked, resumed where it stopped, checked, and unpacked."""

import http.client
import lzma
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from data import bars
from data.caching.cache import alone, atomic, file_md5
from data.errors import InputError

PIECE = 1 << 20  # bytes
ATTEMPTS = 5


def fetch(origin, root: Path, checksum: bool = True) -> None:
    """Fetch the archive of a `data.images.files.Origin` into `root` and unpack it there. An archive that lies there already is used.

    Errors: InputError where the network or the server fails, or the archive is not the published one.
    """
    root.mkdir(parents=True, exist_ok=True)
    archive = root / origin.url.rsplit("/", 1)[-1].split("?")[0]
    with alone(root / f".{archive.name}"):
        if (root / origin.folder).is_dir():
            return
        if not archive.exists():
            download(origin.url, archive)
        if checksum and file_md5(archive) != origin.md5:
            raise InputError(
                f"{archive} is not the published archive (its md5 differs): delete it, or accept it with stream.checksum=false"
            )
        with atomic(root / origin.folder, folder=True) as work:
            _unpack(archive, work, origin.folder, known=checksum)


def download(url: str, path: Path) -> None:
    """Fetch a file; bytes that an earlier attempt left in `<path>.part` are not fetched again."""
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _continue(url, part)
            part.replace(path)
            return
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code < 500:
                break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(error, urllib.error.URLError) and attempt:
                break
    raise InputError(f"{url} cannot be fetched ({reason}): fetch it on a machine with a network, save it as {path}, and run this again")


def _continue(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch
            return
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        have = have if answer.status == 206 else 0
        left = int(answer.headers.get("Content-Length") or 0)
        with bars.bar(total=have + left, initial=have, unit="B", unit_scale=True, desc=part.stem) as bar:
            got = 0
            while piece := answer.read(PIECE):
                file.write(piece)
                got += len(piece)
                bar.update(len(piece))
    if got < left:
        raise ConnectionError(f"the connection ended after {got} of {left} bytes")


def _unpack(archive: Path, work: Path, folder: str, known: bool) -> None:
    """Unpack beside `work`, then move the archive's folder into its place. Links, devices and paths that lead elsewhere are refused.

    known: its md5 is the published one, so that it is whole
    """
    beside = work.parent / "unpacked"
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                for member in opened.infolist():
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    _check_member(archive, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            shutil.unpack_archive(archive, beside)
        else:
            if not known and tarfile.is_tarfile(archive):  # what is no tar file is refused below
                _check_whole(archive)
            shutil.unpack_archive(archive, beside, filter=lambda member, path: _plain_member(archive, member, path))
    except (shutil.ReadError, EOFError, OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise InputError(f"{archive} cannot be unpacked ({error}): delete it and fetch it again") from None
    if not (beside / folder).is_dir():
        raise InputError(f"{archive} holds no folder {folder}: it is another archive")
    work.rmdir()
    (beside / folder).replace(work)


class _Member(tarfile.TarInfo):
    """Tells a missing or damaged header from the end: after the first member, tarfile takes each of them for the end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the block of zeros that ends an archive
                raise
            raise tarfile.ReadError(f"it is cut or damaged, {error} in place of its end") from None


def _check_whole(archive: Path) -> None:
    """Errors: what tarfile and the decompressors raise for an archive that does not reach its own end."""
    with tarfile.open(archive, tarinfo=_Member) as opened:
        opened.getmembers()
        while opened.fileobj.read(PIECE):  # to the checksum of what is compressed
            pass


def _plain_member(archive: Path, member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    _check_member(archive, member.name, member.isfile() or member.isdir())
    return tarfile.data_filter(member, path)


def _check_member(archive: Path, name: str, plain: bool) -> None:
    """Errors: InputError for a member of an archive that is no plain file or folder, or whose name leads out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not plain or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{archive} holds '{name}', a link, a device or a path that leads out of the folder: get the published archive")
