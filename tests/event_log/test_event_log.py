"""The event log: its two formats, its levels, and the rotation of its file."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iris.event_log.events import JsonFormatter, TextFormatter, log_event
from iris.event_log.output import EventLogHandler


class Lines(logging.Handler):
    """Collects formatted records."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of its own, at the level INFO."""
    made = logging.Logger("iris.part", logging.INFO)
    yield made
    made.handlers.clear()


def test_event_as_text_has_its_fields_and_quotes_values_that_need_it(logger: logging.Logger) -> None:
    lines = Lines(TextFormatter())
    logger.addHandler(lines)
    log_event(logger, "job.state", job_id="train/a-1", state="FAILED", error='exit "5"\nhere', worker_id=None, note="")
    (line,) = lines.lines
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == r'INFO iris.part job.state job_id=train/a-1 state=FAILED error="exit \"5\"\nhere"'


def test_event_as_json_is_one_object_on_one_line(logger: logging.Logger) -> None:
    lines = Lines(JsonFormatter())
    logger.addHandler(lines)
    log_event(logger, "attempt.state", task_id="t", attempt_id=0, error="a\nb", level=logging.WARNING)
    logger.warning("%s of %d", "one", 2)
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("a bug")
    event, message, bug = (json.loads(line) for line in lines.lines)
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "warning",
        "logger": "iris.part",
        "event": "attempt.state",
        "task_id": "t",
        "attempt_id": 0,
        "error": "a\nb",
    }
    assert message["message"] == "one of 2"
    assert "ValueError: wrong" in bug["traceback"]


def test_event_below_the_level_is_not_written(logger: logging.Logger) -> None:
    lines = Lines(TextFormatter())
    logger.addHandler(lines)
    log_event(logger, "call", level=logging.DEBUG, method="ListJobs")
    assert lines.lines == []


def test_rotation_of_the_event_log_keeps_the_newest_files_and_loses_no_line_between_them(
    tmp_path: Path, logger: logging.Logger
) -> None:
    path = tmp_path / "server.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handler = EventLogHandler(descriptor, path, max_bytes=1000, max_files=2)
    handler.setFormatter(TextFormatter())
    logger.addHandler(handler)
    for number in range(200):
        log_event(logger, "event", number=number)
    os.write(descriptor, b"crash\n")  # what a child, or the interpreter itself, writes there
    os.close(descriptor)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["server.log", "server.log.1", "server.log.2"]
    texts = [(tmp_path / name).read_text() for name in ("server.log.2", "server.log.1", "server.log")]
    assert all(len(text) < 1200 for text in texts)
    assert texts[2].endswith("crash\n")
    numbers = [int(line.rpartition("=")[2]) for text in texts for line in text.splitlines() if "number=" in line]
    assert numbers == list(range(numbers[0], 200))
    assert (tmp_path / "server.log.1").stat().st_mode & 0o777 == 0o600


def test_program_continues_without_event_log_records_on_a_full_disk(logger: logging.Logger) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    handler = EventLogHandler(full, None, max_bytes=1, max_files=1)
    handler.setFormatter(TextFormatter())
    logger.addHandler(handler)
    log_event(logger, "event")
    os.close(full)


def test_process_rotates_its_stderr_and_keeps_the_traceback_of_its_crash(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    program = (
        "import logging, pathlib, sys\n"
        "from iris.event_log import log_event, set_up_event_log\n"
        "set_up_event_log(pathlib.Path(sys.argv[1]), level='info', log_format='json', max_bytes=2000, max_files=3)\n"
        "for number in range(100): log_event(logging.getLogger('iris.test'), 'event', number=number)\n"
        "raise SystemError('a crash')\n"
    )
    with path.open("ab") as log:
        ended = subprocess.run([sys.executable, "-c", program, str(path)], stdout=log, stderr=log, check=False)
    assert ended.returncode == 1
    assert len(list(tmp_path.iterdir())) == 4
    assert path.read_text().endswith("SystemError: a crash\n")


def test_level_of_the_event_log_does_not_hide_events_from_other_handlers(tmp_path: Path) -> None:
    program = (
        "import logging\n"
        "from iris.event_log import log_event, set_up_event_log\n"
        "set_up_event_log(None, level='warning', log_format='text')\n"
        "class Other(logging.Handler):\n"
        "    def emit(self, record): print(record.getMessage())\n"
        "logging.getLogger('iris').addHandler(Other())\n"
        "log_event(logging.getLogger('iris.test'), 'worker.registered')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("worker.registered\n", "")
