"""The XML documents that S3 answers with. The peer may send anything, so reading them is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote
from xml.parsers import expat

MAX_DOCUMENT_BYTES: Final = 8 << 20
"""A page of a listing has at most 1000 names of 1024 bytes, percent-encoded."""

_MAX_DEPTH: Final = 16


class DocumentError(ValueError):
    """The bytes are not an XML document, or not the one that was expected."""


@dataclass
class Element:
    """One element: its name without namespace, its text, and what is inside."""

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


def parse(document: bytes) -> Element:
    """Returns the root of a document. Refuses entities and document types, with which a short document can grow.

    Raises:
        DocumentError: the document cannot be read.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"a document of {len(document)} bytes")
    root = Element("")
    stack = [root]

    def start(name: str, _attributes: object) -> None:
        if len(stack) > _MAX_DEPTH:
            raise DocumentError("a document of too many levels")
        element = Element(name.rpartition("}")[2].rpartition(":")[2])
        stack[-1].children.append(element)
        stack.append(element)

    def end(_name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

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
    if not root.children:
        raise DocumentError("an empty document")
    return root.children[0]


def error_of(document: bytes) -> ErrorDocument | None:
    """Returns the error that a document names. None: it names no error."""
    if document.lstrip()[:1] != b"<":
        return None
    try:
        root = parse(document)
    except DocumentError:
        return None
    if root.name != "Error":
        return None
    return _error(root)


def page_of(document: bytes) -> Page:
    """Returns the part of a listing that ListObjectsV2 answers with `encoding-type=url`.

    Raises:
        DocumentError: the document is something else.
    """
    root = parse(document)
    if root.name != "ListBucketResult":
        raise DocumentError(f"a {root.name[:40]!r} in place of a ListBucketResult")
    is_encoded = root.find("EncodingType") == "url"
    names = [content.find("Key") for content in root.all("Contents")]
    is_truncated = root.find("IsTruncated") == "true"
    token = root.find("NextContinuationToken")
    if is_truncated and not token:
        raise DocumentError("a listing that is cut off without a token for the rest")
    return Page(tuple(unquote(name) if is_encoded else name for name in names), token if is_truncated else None)


def failed_deletions(document: bytes) -> dict[str, ErrorDocument]:
    """Returns the names that DeleteObjects did not delete, and why.

    Raises:
        DocumentError: the document is something else.
    """
    root = parse(document)
    if root.name != "DeleteResult":
        raise DocumentError(f"a {root.name[:40]!r} in place of a DeleteResult")
    return {error.find("Key"): _error(error) for error in root.all("Error")}


def text_of(document: bytes, root_name: str, name: str) -> str:
    """Returns the text of the element `name` in a document whose root is `root_name`.

    Raises:
        DocumentError: the document is something else, or has no such text.
    """
    root = parse(document)
    if root.name != root_name or not (found := root.find(name)):
        raise DocumentError(f"a {root.name[:40]!r} without a {name}; expected a {root_name}")
    return found


def _error(element: Element) -> ErrorDocument:
    return ErrorDocument(_one_line(element.find("Code"), 80), _one_line(element.find("Message"), 300))


def _one_line(text: str, limit: int) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in text.strip())
    return plain if len(plain) <= limit else f"{plain[:limit]}..."
