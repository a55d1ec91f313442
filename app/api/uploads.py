"""Recordings as multipart forms: on disk beyond a megabyte, counted, and closed when the request is done."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from app.api.parameters import MULTIPART, media_type_of, query_pairs
from app.api.refusals import MediaTypeError, ParameterError
from app.errors import CancelledError, OverloadedError

_MAX_FIELDS = 100
_MAX_FIELD_BYTES = 100_000
_RETRY_NO_ROOM_S = 5.0


@dataclass(frozen=True, slots=True)
class Upload:
    """The recordings of a request, at least one, and its other fields."""

    files: Sequence[BinaryIO]
    fields: Sequence[tuple[str, str]]

    def first(self) -> dict[str, str]:
        """Every field's first value that is not empty; line ends as LF."""
        values: dict[str, str] = {}
        for name, value in self.fields:
            if value:
                values.setdefault(name, value.replace("\r\n", "\n").replace("\r", "\n"))
        return values

    def all(self, *names: str) -> list[str]:
        """The values of all fields of these names."""
        return [value for name, value in self.fields if name in names and value]


@asynccontextmanager
async def read_upload(request: Request, max_files: int) -> AsyncIterator[Upload]:
    """The body, whose bytes the middleware has bounded, and the query string, which wins.

    Raises: InputError for a body that is no such form, CancelledError if the client goes away, OverloadedError where
    the disk is full.
    """
    if media_type_of(request) != MULTIPART:
        raise MediaTypeError(f"Invalid request: send the recording as {MULTIPART}, in the field file")
    form = request.form(max_files=max_files, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    try:
        items = await form
    except ClientDisconnect:
        raise CancelledError("the client went away") from None
    except OSError as error:
        raise OverloadedError("there is no room for the upload; try again later", _RETRY_NO_ROOM_S) from error
    try:
        uploads = [(name, value) for name, value in items.multi_items() if isinstance(value, UploadFile)]
        if not uploads:
            raise ParameterError("file", "missing file parameter; send a recording as a part with a file name")
        if any(name != "file" for name, _ in uploads):
            raise ParameterError("file", "recordings go into the field file, once for each")
        fields = [(name, value) for name, value in items.multi_items() if isinstance(value, str)]
        yield Upload([upload.file for _, upload in uploads], [*query_pairs(request), *fields])
    finally:
        await items.close()
