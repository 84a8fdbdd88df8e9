"""One JSON object a line on standard error for everything this process logs; what to log is left to its modules."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime

import msgspec

# Attributes every LogRecord has; what else is found on one was given as `extra` and is a field of ours.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Libraries write sentences where we write an event name; theirs become the `message` of this event.
_LIBRARY_EVENT = "library"
TEXT_CHARS_MAX = 8_000


class JsonLines(logging.Formatter):
    """`{"time","level","event","logger",...}`; a record of ours has the event's name as its message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name.startswith("elkapi"):
            line["event"] = record.getMessage()
        else:
            line |= {"event": _LIBRARY_EVENT, "message": record.getMessage()[:TEXT_CHARS_MAX]}
        line |= {"logger": record.name, "process": record.process}
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            # The end of a long trace names the cause.
            line["trace"] = "".join(traceback.format_exception(record.exc_info[1]))[-TEXT_CHARS_MAX:]
        return msgspec.json.encode(line, enc_hook=repr).decode()


def log_json_lines(level: str) -> None:
    """Send every record of `level` (a name such as "info") or above to standard error, libraries' from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("elkapi").setLevel(level.upper())
