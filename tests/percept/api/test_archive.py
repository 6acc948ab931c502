"""Several files in one body: as multipart, as ZIP, and always the same bytes for the same files."""

import io
import re
import shutil
import subprocess
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percept.api.archive import ARCHIVES, File, multipart, zipped
from percept.api.negotiation import MEDIA_TYPES

FILES = [
    File("numbers.json", "json", b'{"a": 1}\n'),
    File("map.npy", "npy", b"\r\n--\r\n\x00\xff\r"),
    File("empty.png", "png", b""),
]


def parsed(kind: str, body: bytes) -> Message:
    """The body as the standard library's mail parser reads it."""
    return BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)


def split(kind: str, body: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Header fields and content by the letter of RFC 2046, as decoders for HTTP cut it."""
    boundary = re.fullmatch(r"multipart/mixed; boundary=([0-9a-f]{1,70})", kind)
    assert boundary
    first, *parts, last = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())
    assert (first, last) == (b"", b"--\r\n")
    heads, contents = zip(*(part.removeprefix(b"\r\n").split(b"\r\n\r\n", 1) for part in parts), strict=True)
    fields = [dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n")) for head in heads]
    return list(zip(fields, contents, strict=True))


def test_every_part_says_its_type_its_name_and_its_length() -> None:
    for (fields, data), file in zip(split(*multipart(FILES)), FILES, strict=True):
        assert data == file.data
        assert fields == {
            "Content-Type": MEDIA_TYPES[file.format],
            "Content-Disposition": f'attachment; filename="{file.name}"',
            "Content-Length": str(len(file.data)),
        }


def test_mail_parsers_read_the_parts() -> None:
    message = parsed(*multipart(FILES))
    assert not message.defects
    assert [part.get_filename() for part in message.iter_parts()] == [file.name for file in FILES]
    assert [part.get_payload(decode=True) for part in message.iter_parts()] == [file.data for file in FILES]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_any_bytes_come_through_both(contents: list[bytes]) -> None:
    files = [File(f"{k}.png", "png", data) for k, data in enumerate(contents)]
    assert [data for _, data in split(*multipart(files))] == contents
    with ZipFile(io.BytesIO(zipped(files)[1])) as archive:
        assert [archive.read(file.name) for file in files] == contents


def test_a_boundary_that_occurs_in_a_file_is_not_taken() -> None:
    class Hostile(bytes):
        """Bytes that hold whatever is looked for in them, the first time."""

        asked: tuple[bytes, ...] = ()

        def __contains__(self, needle: object) -> bool:
            self.asked = (*self.asked, needle)
            return len(self.asked) == 1

    data = Hostile(b"content")
    kind, _ = multipart([File("a.json", "json", data)])
    assert len(set(data.asked)) == 2
    assert kind.endswith(data.asked[-1].decode())


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_same_files_are_the_same_bytes_and_others_are_not(name: str) -> None:
    assert ARCHIVES[name](FILES) == ARCHIVES[name](FILES)
    assert ARCHIVES[name](FILES) != ARCHIVES[name](FILES[:2])


def test_a_zip_is_stored_and_dated_at_the_beginning_of_its_time() -> None:
    kind, body = zipped(FILES)
    assert kind == "application/zip"
    with ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        for entry, file in zip(archive.infolist(), FILES, strict=True):
            assert (entry.filename, entry.file_size, entry.compress_size) == (file.name, *[len(file.data)] * 2)
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.skipif(not shutil.which("unzip"), reason="no unzip")
def test_what_is_unzipped_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(FILES)[1])
    subprocess.run(["unzip", "-q", "a.zip"], cwd=tmp_path, check=True)
    for file in FILES:
        assert (tmp_path / file.name).stat().st_mode & 0o777 == 0o644
        assert (tmp_path / file.name).read_bytes() == file.data
