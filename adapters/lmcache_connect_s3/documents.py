"""The XML documents that S3 answers with. The peer may send anything, so reading them is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, unquote_plus
from xml.parsers import expat

MAX_DOCUMENT_BYTES: Final = 8 << 20
"""A page of a listing has at most 1000 names of 1024 bytes, percent-encoded."""

_MAX_DEPTH: Final = 16

_KEPT_DEPTH: Final = 3
"""What lies deeper is read and dropped: no answer has there what is looked for."""

_MAX_ELEMENTS: Final = 50_000
"""In one document. A page of a listing has up to 15 for each of its 1000 names."""

_LONGEST_ERROR: Final = 64 << 10
"""The longest error document that is read, in bytes."""

_LEAD: Final = b"\xef\xbb\xbf \t\r\n"
"""The bytes of a byte order mark in UTF-8, and white space."""


class DocumentError(ValueError):
    """The bytes are not an XML document, or not the one that was expected."""


@dataclass(slots=True)
class Element:
    """One element: its name without namespace, its text without that of its children, and what is inside."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, name: str) -> str:
        """Returns the text of the first child of this name, or ""."""
        return next((child.text for child in self.children if child.name == name), "")

    def all(self, name: str) -> Iterator[Element]:
        """Returns the children of this name."""
        return (child for child in self.children if child.name == name)


@dataclass(frozen=True)
class ErrorDocument:
    """What a server says of an error: a code such as `SlowDown`, and a message of one line. Either may be empty."""

    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Page:
    """Part of a listing. `token` asks for the next part; None at the end."""

    names: tuple[str, ...]
    token: str | None


@dataclass(frozen=True)
class Deletions:
    """What DeleteObjects says of names. What it does not name was neither deleted nor refused, as far as is known."""

    deleted: frozenset[str]
    refused: Mapping[str, ErrorDocument]


def parse(document: bytes, root_name: str | None = None) -> Element:
    """Returns the root of a document, in time that grows with its length.

    Refuses entities and document types, with which a short document can grow.

    Raises:
        DocumentError: the document cannot be read, or its root is another one than `root_name`. Such a root ends the
            reading at once.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"a document of {len(document)} bytes")
    document = without_lead(document)
    top = Element("")
    stack = [top]
    texts: list[list[str]] = [[]]  # of each element on the stack: what comes in a million pieces is joined once
    elements = 0

    def start(name: str, _attributes: object) -> None:
        nonlocal elements
        elements += 1
        depth = len(stack)
        if depth > _MAX_DEPTH:
            raise DocumentError("a document of too many levels")
        if elements > _MAX_ELEMENTS:
            raise DocumentError(f"a document of more than {_MAX_ELEMENTS} elements")
        element = Element(name.rpartition("}")[2].rpartition(":")[2])
        if depth == 1 and root_name not in {None, element.name}:
            raise DocumentError(f"a {element.name[:40]!r} in place of a {root_name}")
        if depth <= _KEPT_DEPTH:
            stack[-1].children.append(element)
        stack.append(element)
        texts.append([])

    def end(_name: str) -> None:
        stack.pop().text = "".join(texts.pop())

    def text(data: str) -> None:
        texts[-1].append(data)

    def refuse(*_: object) -> None:
        raise DocumentError("a document with a document type or an entity")

    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise DocumentError(f"a document that is not XML: {error}") from None
    if not top.children:
        raise DocumentError("an empty document")
    return top.children[0]


def without_lead(document: bytes | memoryview) -> bytes:
    """Returns a document without the white space and byte order marks before it, where a parser expects none.

    Servers that begin an answer before they know its outcome send white space while they work.
    """
    return bytes(document).lstrip(_LEAD)


def error_of(document: bytes) -> ErrorDocument | None:
    """Returns the error that a document names. None: it names no error, or is too long to be one."""
    if len(document) > _LONGEST_ERROR or without_lead(document)[:1] != b"<":
        return None
    try:
        root = parse(document, "Error")
    except DocumentError:
        return None
    return _error(root)


def page_of(document: bytes, listed: str) -> Page:
    """Returns the part of a listing that ListObjectsV2 answers with `encoding-type=url` for the prefix `listed`.

    The names are decoded in the way in which this server encodes them. See `listed_names`.

    Raises:
        DocumentError: the document is something else.
    """
    root = parse(document, "ListBucketResult")
    texts = [content.find("Key") for content in root.all("Contents")]
    names = listed_names(texts, listed, is_encoded=root.find("EncodingType") == "url", echoed=root.find("Prefix"))
    is_truncated = root.find("IsTruncated") == "true"
    token = root.find("NextContinuationToken")
    if is_truncated and not token:
        raise DocumentError("a listing that is cut off without a token for the rest")
    return Page(tuple(names), token if is_truncated else None)


def listed_names(texts: Sequence[str], listed: str, *, is_encoded: bool, echoed: str) -> list[str]:
    """Returns the names that the texts of a listing stand for.

    Servers encode names as forms do (a space is `+`), as paths are encoded (it is `%20`), or not at all. `is_encoded`
    is what the answer says of that. More certain is that every name begins with the prefix that was asked for, and
    that the prefix in the answer, `echoed`, is the same one. Encoded text has no space, and nothing but ASCII.
    """
    together = "".join((*texts, echoed))
    may_be_encoded = together.isascii() and " " not in together
    decoders: tuple[Callable[[str], str], ...] = (str, unquote_plus, unquote)
    if is_encoded and may_be_encoded:
        decoders = (unquote_plus, unquote, str)
    ordered = sorted(decoders, key=lambda decode: decode(echoed) != listed)  # stable: the likelier one stays first
    for decode in ordered:
        names = [decode(text) for text in texts]
        if all(name.startswith(listed) for name in names):
            return names
    return [ordered[0](text) for text in texts]


def deletions(document: bytes) -> Deletions:
    """Returns what DeleteObjects answers.

    Raises:
        DocumentError: the document is something else.
    """
    root = parse(document, "DeleteResult")
    refused = {error.find("Key"): _error(error) for error in root.all("Error")}
    deleted = frozenset(found.find("Key") for found in root.all("Deleted"))
    return Deletions(deleted - refused.keys(), refused)


def text_of(document: bytes, root_start: str, name: str) -> str:
    """Returns the text of the element `name` in a document whose root's name begins with `root_start`.

    Servers disagree on the end of that name: `CompleteMultipartUploadResult` is S3's.

    Raises:
        DocumentError: the document is something else, or has no such text.
    """
    root = parse(document)
    if not root.name.startswith(root_start) or not (found := root.find(name)):
        raise DocumentError(f"a {root.name[:40]!r} without a {name}; expected a {root_start}")
    return found


def _error(element: Element) -> ErrorDocument:
    return ErrorDocument(_one_line(element.find("Code"), 80), _one_line(element.find("Message"), 300))


def _one_line(text: str, limit: int) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in text.strip())
    return plain if len(plain) <= limit else f"{plain[:limit]}..."
