"""The dialect of OpenAI's Responses API, assembled from its modules."""

from __future__ import annotations

from elkapi.translate.dialect import Dialect
from elkapi.translate.responses_reply import ResponsesReader, read_reply
from elkapi.translate.responses_request import check_crossing, read_request
from elkapi.translate.responses_write import LOSSES, write_request
from elkapi.translate.responses_writer import ResponsesWriter, write_reply

DIALECT = Dialect(
    name="responses",
    read_request=read_request,
    write_request=write_request,
    read_reply=read_reply,
    write_reply=write_reply,
    reader=ResponsesReader,
    writer=ResponsesWriter,
    losses=LOSSES,
    check_crossing=check_crossing,
)
