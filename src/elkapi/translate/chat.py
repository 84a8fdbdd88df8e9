"""The dialect of OpenAI's chat completions, assembled from its four modules.

`chat_read_request`, `chat_write_request`, `chat_read_reply` and `chat_write_reply` own the format. Contract: openai.md
(Chat completions).
"""

from __future__ import annotations

from elkapi.translate.chat_read_reply import ChatReader, read_reply
from elkapi.translate.chat_read_request import check_crossing, read_request
from elkapi.translate.chat_write_reply import ChatWriter, write_reply
from elkapi.translate.chat_write_request import LOSSES, write_request
from elkapi.translate.dialect import Dialect

DIALECT = Dialect(
    name="chat",
    read_request=read_request,
    write_request=write_request,
    read_reply=read_reply,
    write_reply=write_reply,
    reader=ChatReader,
    writer=ChatWriter,
    losses=LOSSES,
    repeats=True,
    check_crossing=check_crossing,
)
