"""Runs greedy readers, which request all data in bursts and disconnect before the answers arrive. A seed determines the
bursts."""

from __future__ import annotations

import http.client
import json
import random
import threading
from contextlib import closing
from urllib.parse import urlsplit

from support.tokens import token

from iris.rpc.auth.caller import READER

_READERS = 6
_TIMEOUT_S = 30.0
_OUR_FAULT = ('"code":"internal"', '"code":"unknown"')


class GreedyReaders:
    """Readers with one token.

    Args:
        address: Of the controller, which may be away at any time.
        seed: Of the run.

    Attributes:
        broken: Answers that blame the server's own code.
        answers: How many answers there were.
    """

    def __init__(self, address: str, seed: str) -> None:
        self.broken: list[str] = []
        self.answers = 0
        self._url = urlsplit(address)
        self._seed = seed
        self._token = token(READER, name="greedy", ttl_s=400 * 86400.0)  # the cluster's clock is set ahead
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin."""
        for number in range(_READERS):
            draws = random.Random(f"{self._seed}/reader-{number}")
            thread = threading.Thread(target=self._read, args=(draws,), name=f"reader-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop the readers after the answers to their running calls have arrived."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self, draws: random.Random) -> None:
        job_ids = ["none yet"]
        while not self._stop.wait(draws.uniform(0.0, 3.0)):  # then a burst
            for _ in range(draws.randrange(1, 20)):
                task = {"taskId": f"{draws.choice(job_ids)}/task-0", "filter": {"tail": 2**31 - 1, "regex": "."}}
                method, request = draws.choice(
                    [
                        ("ListJobs", {}),
                        ("ListWorkers", {}),
                        ("ListMachines", {}),
                        ("GetJobStatus", {"jobId": draws.choice(job_ids)}),
                        ("FetchTaskLogs", task),
                    ]
                )
                jobs = self._ask(method, request, leaves=draws.random() < 0.3)
                job_ids = jobs or job_ids
                if self._stop.is_set():
                    return

    def _ask(self, method: str, request: object, *, leaves: bool) -> list[str]:
        """Make a call; return the ids of the jobs in its answer, if that is a list of jobs."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._token}"}
        place = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=_TIMEOUT_S)
        with closing(place) as connection:
            try:
                connection.request("POST", f"/iris.cluster.ControllerService/{method}", json.dumps(request), headers)
                if leaves:
                    return []
                text = connection.getresponse().read().decode()
            except (OSError, http.client.HTTPException):
                return []  # the controller was killed, or stands still
        self.answers += 1
        if any(words in text.replace(" ", "") for words in _OUR_FAULT):
            self.broken.append(f"{method}: {text[:1000]}")
        return [job["jobId"] for job in json.loads(text).get("jobs", [])] if method == "ListJobs" else []
