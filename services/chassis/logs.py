"""JSON logs, one object a line, on stderr: a constant event name plus fields (STYLE.md, rule 11)."""

import faulthandler
import logging
import os
import sys
from typing import TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from services.chassis import metrics, tracing


class _Lines:
    """Where lines go, and which never fails who writes one: with a full disk under the logs the shop sells
    on, and tells of it by a metric.

    Past the stream's own buffer, which would keep what it could not write, and end the process with exit code
    120 for it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()

    def write(self, text: str) -> None:
        rest = text.encode(errors="backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            metrics.LOG_LINES_LOST.inc()

    def flush(self) -> None:
        """Nothing is held back."""


_STDERR = 2


def configure(service: str, level: str) -> None:
    """Sends structlog and the standard library's loggers through one JSON formatter. What ends a process
    without Python's help, as a fault in a library written in C, leaves its stack beside them."""
    faulthandler.enable(_STDERR)

    def add_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    lines = _Lines(sys.stderr)
    shared: list[structlog.typing.Processor] = [
        add_service,
        tracing.add_trace_id,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            # Without the local variables of each frame: they hold e-mails, tokens and keys.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, lines)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processor=structlog.processors.JSONRenderer(), foreign_pre_chain=shared
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, logging.getLevelName(level)))


def get(name: str) -> FilteringBoundLogger:
    """The logger of one module."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger
