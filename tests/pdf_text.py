"""What a person reads in a PDF of ours: its text layer, as a reader, a search or a screen reader finds it.

Enough for what Typst writes: fonts whose characters are numbered, each with its table of what they mean, and pages
whose streams are compressed (ISO 32000-1, 9.10).
"""

import re
import zlib
from collections.abc import Mapping

_OBJECT = re.compile(rb"(?:^|\n)(\d+) 0 obj\s(.*?)(?=\nendobj|stream\r?\n)", re.DOTALL)
_FONT = re.compile(rb"/(f\d+) (\d+) 0 R")
# A string may hold parentheses as they are, where they match.
_PART = rb"(?:\\.|[^\\()]|\((?:\\.|[^\\()]|\((?:\\.|[^\\()])*\))*\))*"
_STRING = re.compile(rb"\((%s)\)" % _PART, re.DOTALL)
_SHOWN = re.compile(rb"/(f\d+) [\d.]+ Tf|((?:\(%s\)|\[(?:\(%s\)|[^\]()])*\])\s*T[jJ])|(ET)" % (_PART, _PART), re.DOTALL)
_ESCAPED = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def text_of(pdf: bytes) -> str:
    """All pages in their order, with single spaces between the pieces."""
    objects = {int(found[1]): (found[2], found.end()) for found in _OBJECT.finditer(pdf)}
    pages = [head for head, _ in objects.values() if head.startswith(b"<</Type/Page/")]
    words = []
    for page in pages:
        fonts = {
            name.decode(): _meanings(_stream(pdf, objects, _named(b"ToUnicode", objects[int(font)][0])))
            for name, font in _FONT.findall(objects[_named(b"Resources", page)][0])
        }
        words.append(_read(_stream(pdf, objects, _named(b"Contents", page)), fonts))
    return " ".join(" ".join(words).split())


def _named(what: bytes, head: bytes) -> int:
    found = re.search(rb"/%s (\d+) 0 R" % what, head)
    assert found, head
    return int(found[1])


def _stream(pdf: bytes, objects: Mapping[int, tuple[bytes, int]], number: int) -> bytes:
    head, at = objects[number]
    length = re.search(rb"/Length (\d+)", head)
    assert length, head
    begin = pdf.index(b"\n", at) + 1
    return zlib.decompress(pdf[begin : begin + int(length[1])])


def _meanings(table: bytes) -> dict[int, str]:
    pairs = re.findall(rb"^<([0-9A-F]{4})> <([0-9A-F]+)>$", table, re.MULTILINE)
    return {int(glyph, 16): bytes.fromhex(text.decode()).decode("utf-16-be") for glyph, text in pairs}


def _read(page: bytes, fonts: Mapping[str, Mapping[int, str]]) -> str:
    said, font = "", ""
    for found in _SHOWN.finditer(page):
        if found[1]:
            font = found[1].decode()
        elif found[3]:
            said += " "
        else:
            raw = b"".join(_ESCAPED.sub(_meant, one) for one in _STRING.findall(found[2]))
            said += "".join(fonts[font][raw[at] << 8 | raw[at + 1]] for at in range(0, len(raw), 2))
    return said


def _meant(found: "re.Match[bytes]") -> bytes:
    named = found[1]
    return bytes([int(named, 8)]) if named.isdigit() else _NAMED.get(named, named)
