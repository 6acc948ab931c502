"""The containers of several files: any bytes survive, and the same files give the same bytes."""

import io
import re
import shutil
import subprocess
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.api.archive import ENCODERS, ResponseFile, encode_multipart, encode_zip
from percept.api.negotiation import MEDIA_TYPES

FILES = [
    ResponseFile("numbers.json", "json", b'{"a": 1}\n'),
    ResponseFile("map.npy", "npy", b"\r\n--\r\n\x00\xff\r"),
    ResponseFile("empty.png", "png", b""),
]


def parse_multipart(media_type: str, body: bytes) -> EmailMessage:
    """Parse a body with the mail parser of the standard library."""
    return BytesParser(policy=HTTP).parsebytes(f"Content-Type: {media_type}\r\n\r\n".encode() + body)


def split_multipart(media_type: str, body: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Split a body into the headers and content of its parts, strictly by RFC 2046, as decoders for HTTP do."""
    boundary = re.fullmatch(r"multipart/mixed; boundary=([0-9a-f]{1,70})", media_type)
    assert boundary
    first, *parts, last = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())
    assert (first, last) == (b"", b"--\r\n")
    heads, contents = zip(*(part.removeprefix(b"\r\n").split(b"\r\n\r\n", 1) for part in parts), strict=True)
    fields = [dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n")) for head in heads]
    return list(zip(fields, contents, strict=True))


def test_part_has_type_name_and_length() -> None:
    for (fields, data), file in zip(split_multipart(*encode_multipart(FILES)), FILES, strict=True):
        assert data == file.data
        assert fields == {
            "Content-Type": MEDIA_TYPES[file.format],
            "Content-Disposition": f'attachment; filename="{file.name}"',
            "Content-Length": str(len(file.data)),
        }


def test_mail_parser_reads_the_parts() -> None:
    message = parse_multipart(*encode_multipart(FILES))
    assert not message.defects
    assert [part.get_filename() for part in message.iter_parts()] == [file.name for file in FILES]
    assert [part.get_payload(decode=True) for part in message.iter_parts()] == [file.data for file in FILES]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_any_bytes_survive_both_containers(contents: list[bytes]) -> None:
    files = [ResponseFile(f"{k}.png", "png", data) for k, data in enumerate(contents)]
    assert [data for _, data in split_multipart(*encode_multipart(files))] == contents
    with ZipFile(io.BytesIO(encode_zip(files)[1])) as archive:
        assert [archive.read(file.name) for file in files] == contents


def test_boundary_in_a_file_is_replaced() -> None:
    class FirstBoundary(bytes):
        """Bytes that contain the first boundary that is searched in them."""

        searched: tuple[bytes, ...] = ()

        def __contains__(self, needle: Any) -> bool:
            self.searched = (*self.searched, needle)
            return len(self.searched) == 1

    data = FirstBoundary(b"content")
    media_type, _ = encode_multipart([ResponseFile("a.json", "json", data)])
    assert len(set(data.searched)) == 2
    assert media_type.endswith(data.searched[-1].decode())


@pytest.mark.parametrize("name", ENCODERS)
def test_same_files_give_the_same_bytes(name: str) -> None:
    assert ENCODERS[name](FILES) == ENCODERS[name](FILES)
    assert ENCODERS[name](FILES) != ENCODERS[name](FILES[:2])


def test_zip_entries_are_stored_and_dated_1980() -> None:
    media_type, body = encode_zip(FILES)
    assert media_type == "application/zip"
    with ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        for entry, file in zip(archive.infolist(), FILES, strict=True):
            assert (entry.filename, entry.file_size, entry.compress_size) == (file.name, *[len(file.data)] * 2)
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.skipif(not shutil.which("unzip"), reason="unzip is not installed")
def test_unzipped_files_are_readable(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(encode_zip(FILES)[1])
    subprocess.run(["unzip", "-q", "a.zip"], cwd=tmp_path, check=True)
    for file in FILES:
        assert (tmp_path / file.name).stat().st_mode & 0o777 == 0o644
        assert (tmp_path / file.name).read_bytes() == file.data
