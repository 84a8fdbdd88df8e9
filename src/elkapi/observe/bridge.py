"""Routes Python's `logging`, ours and that of libraries, into the JSON log of `observe.log`."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator

from elkapi.observe.log import Log
from elkapi.settings import Settings

# The standard attributes of a LogRecord; any other was passed as `extra` and becomes a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Libraries log sentences, not event names; they become the `message` of this event.
LIBRARY_EVENT = "library"
TEXT_CHARS_MAX = 8_000
_JSON_TYPES = (str, int, float, bool, type(None), list, tuple, dict)


class IntoLog(logging.Handler):
    """Writes a record of a logger below `elkapi` as an event with its extras as fields, any other as LIBRARY_EVENT."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        fields = {name: value if isinstance(value, _JSON_TYPES) else repr(value) for name, value in given.items()}
        fields["logger"] = record.name
        event = _sentence(record)
        if not record.name.startswith("elkapi"):
            fields["message"], event = event[:TEXT_CHARS_MAX], LIBRARY_EVENT
        if record.exc_info and record.exc_info[1] is not None:
            # The end of a long trace has the cause.
            fields["trace"] = "".join(traceback.format_exception(record.exc_info[1]))[-TEXT_CHARS_MAX:]
        self._log.write(event, _level(record.levelno), **fields)


def _sentence(record: logging.LogRecord) -> str:
    """The message; unformatted if its arguments do not fit, since that must not fail the logging caller."""
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


def _level(number: int) -> str:
    for name, least in (("error", logging.ERROR), ("warning", logging.WARNING), ("info", logging.INFO)):
        if number >= least:
            return name
    return "debug"


@contextlib.contextmanager
def json_log(role: str, settings: Settings) -> Iterator[Log]:
    """Log as JSON lines while the block runs: our records from the configured level, libraries' from warning."""
    log = Log(role, file=settings.log_file, level=settings.log_level)
    handler = IntoLog(log)
    root, ours = logging.getLogger(), logging.getLogger("elkapi")
    before = root.handlers[:], root.level, ours.level
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.DEBUG)  # `Log` drops what is below the configured level.
    try:
        yield log
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
        log.close()
