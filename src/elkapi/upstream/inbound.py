"""From the connection's bytes to one reply: httptools' callbacks and our limits; sockets and clocks are `connection`'s.

What the parser lets pass and we do not: see `wire.reply_framing`. The parser collects a header line, a trailer or a
chunk extension until it is complete without telling anyone, so what it may swallow is counted here from outside. Empty
lines between two replies are skipped by the parser; any other byte after a reply makes the connection unfit for reuse.
"""

from __future__ import annotations

from httptools import HttpResponseParser

from elkapi.upstream.errors import ProtocolViolation, UpstreamFailure
from elkapi.upstream.origin import ClientLimits
from elkapi.upstream.reply import Headers, SocketReply
from elkapi.upstream.wire import UNTIL_CLOSE, fields_of, reply_framing


class Inbound:
    """The reading half of a connection. `begin` a reply, `feed` it, look at the flags.

    answered: a byte has come. head_done: status and headers were given to the reply. message_done: so was the body.
    body_moved: the last `feed` held body bytes. keep_alive: nothing so far forbids another exchange.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._reply: SocketReply | None = None
        self._clear()

    def _clear(self) -> None:
        self.answered = False
        self.head_done = False
        self.message_done = False
        self.body_moved = False
        self.keep_alive = False
        self._headers: Headers = []
        self._field_bytes = 0  # Of complete fields: the limit proper, which no segmentation changes.
        self._raw_head_bytes = 0  # Fed while the head was incomplete: the backstop against a line that never ends.
        self._fed_bytes = 0  # The same with what is being fed: no head of this reply can be longer.
        self._header_count = 0
        self._trailer_count = 0
        self._interim_count = 0
        self._in_interim = False
        self._framing = 0
        self._silent_bytes = 0
        self._violation: UpstreamFailure | None = None

    def begin(self, reply: SocketReply) -> None:
        self._clear()
        self._reply = reply

    def end(self) -> None:
        """Release the reply, which lives as long as its reader."""
        self._reply = None

    def close(self) -> None:
        """Break the reference cycle: the parser holds our bound methods, so the pair would wait for the cycle
        collector."""
        self._parser = None

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body ends properly if the connection ends now."""
        return self.head_done and self._framing == UNTIL_CLOSE

    def feed(self, data: bytes) -> None:
        """Parse bytes. Raises ProtocolViolation for an untrustworthy reply; stray bytes after a complete one only
        prevent reuse."""
        assert self._parser is not None
        had_head = self.head_done
        self.answered = True
        self.body_moved = False
        self._fed_bytes = self._raw_head_bytes + len(data)
        try:
            self._parser.feed_data(data)
        except Exception as error:
            if not self.message_done:
                raise self._violation or self._unreadable(error) from None
            self.keep_alive = False
        if self.message_done:
            return
        if not self.head_done:
            self._raw_head_bytes += len(data)
            if self._raw_head_bytes > 2 * self._limits.header_bytes_max:
                raise self._unreadable(f"the head is longer than {self._limits.header_bytes_max} bytes")
        elif self.body_moved:
            self._silent_bytes = 0
        elif had_head:
            self._silent_bytes += len(data)
            if self._silent_bytes > self._limits.header_bytes_max:
                raise self._unreadable("a trailer or chunk extension is longer than header_bytes_max")

    # --- what the parser says

    def on_message_begin(self) -> None:
        if self.message_done:
            raise ValueError("bytes after the reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:  # Trailers are counted and dropped.
            self._trailer_count += 1
            if self._trailer_count > self._limits.header_count_max:
                self._refuse(f"the reply has more than {self._limits.header_count_max} trailers")
        else:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        reply, parser = self._reply, self._parser
        assert reply is not None
        assert parser is not None
        status = parser.get_status_code()
        headers = self._headers
        # Checked here and not per field: one segment contains at most one read of the loop anyway. The sum is needed
        # only if everything received exceeds the limit, or an interim head came before.
        if self._fed_bytes > self._limits.header_bytes_max or status < 200 or self._field_bytes:
            self._field_bytes += sum([len(name) + len(value) + 4 for name, value in headers])
        self._header_count += len(headers)
        if self._field_bytes > self._limits.header_bytes_max or self._header_count > self._limits.header_count_max:
            self._refuse(
                f"the head has more than {self._limits.header_bytes_max} bytes or "
                f"{self._limits.header_count_max} headers"
            )
        fields = fields_of(headers)
        try:
            framing = reply_framing(reply.is_head, status, parser.get_http_version(), headers, fields)
        except UpstreamFailure as violation:
            self._violation = violation
            raise
        if status < 200:
            self._interim_count += 1
            if status == 101 or self._interim_count > self._limits.interim_replies_max:
                self._refuse(f"unexpected interim reply {status}")
            self._in_interim = True
            self._headers = []
            return
        self.head_done = True
        self._framing = framing
        # The parser cannot be told that this was a HEAD, so its state is unusable afterwards.
        self.keep_alive = not reply.is_head and parser.should_keep_alive()
        self.message_done = reply.is_head
        reply.give_head(status, headers, fields)

    def on_body(self, chunk: bytes) -> None:
        if self.message_done or self._reply is None:
            self.keep_alive = False
            return
        self.body_moved = True
        self._reply.give_body(chunk)

    def on_message_complete(self) -> None:
        if self._in_interim:
            self._in_interim = False
        else:
            self.message_done = True

    def _refuse(self, detail: str) -> None:
        self._violation = self._unreadable(detail)
        raise self._violation

    def _unreadable(self, detail: object) -> ProtocolViolation:
        return ProtocolViolation(str(detail), phase="body" if self.head_done else "header", sent=True)
