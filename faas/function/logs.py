"""One JSON object a line on stderr, for whoever collects a function's logs."""

import json
import logging
import sys
from datetime import UTC, datetime


class Json(logging.Formatter):
    """time (UTC, ISO 8601), level, message, what was given as `extra={"about": {...}}`, and perhaps a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(), "message": record.getMessage(), **getattr(record, "about", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def to_stderr() -> None:
    """Everything that this process logs, warnings among it, and nothing else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("uvicorn", "hypercorn"):  # what they say of their start and end is of no use here
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.captureWarnings(True)
