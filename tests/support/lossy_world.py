"""A controller and a worker behind proxies that lose calls, with the tools that tests of lost calls need."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from support.cluster import launch, unique
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.lossy_proxy import Loss, LossyProxy, Way
from support.tokens import controller_token, token
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.outputs.output_store import OutputKeeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import Resources
from iris.cluster.logs.directories import LogDirectories
from iris.errors import UnavailableError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.calls import TRIES, call
from iris.rpc.peer import Peer

T = TypeVar("T")
WORKER_HOST = "127.0.0.3"  # where the worker says that it is: only its proxy is there


@dataclass
class LossyWorld:
    """A controller with one worker, shared by all cases of a test module.

    Attributes:
        worker: Its process.
        worker_address: Of the worker, past its proxy.
        direct: A client that loses nothing.
        lossy: One that goes through the controller's proxy.
        client: A user's, through it as well.
        directory: The test's.
    """

    controller: ControllerThread
    controller_proxy: LossyProxy
    worker_proxy: LossyProxy
    worker: subprocess.Popen[bytes]
    worker_address: str
    direct: RemoteClusterClient
    lossy: RemoteClusterClient
    client: IrisClient
    directory: Path

    def case(self, name: str, way: Way, times: int) -> Case:
        """Return the case for one call."""
        return Case(self, name, way, times)


@dataclass
class Case:
    """A test case in which one call is lost.

    Attributes:
        call: Service and method.
        way: What is lost: the request, or the response.
        times: How often.
    """

    world: LossyWorld
    call: str
    way: Way
    times: int
    losses: list[Loss] = field(default_factory=list)

    def lose(self, containing: str = "", *, messages: int = 0) -> None:
        """Lose the call from now on if its request contains the given text."""
        proxy = self.world.controller_proxy if self.call.startswith("Controller") else self.world.worker_proxy
        self.losses.append(proxy.lose(self.call, self.way, self.times, containing=containing, messages=messages))

    def ask(self, request: Any) -> Any:
        """Make the call. The client repeats the call while it gets no answer."""
        return self.again(partial(call, self._method(), request, Peer("the proxy", "the server")))

    def stream(self, request: Any) -> Any:
        """Open the stream of the call once."""
        return self._method()(request)

    def again(self, ask: Callable[[], T]) -> T:
        """Make the same call once more, as a user does after an error."""
        for _ in range(self.times // TRIES):
            with contextlib.suppress(UnavailableError):
                return ask()
        return ask()

    def is_losing(self) -> bool:
        """Whether calls are still to be lost. A case proves something only after all its calls were lost."""
        return any(loss.left for loss in self.losses)

    def launch(self, script: str, **fields: Any) -> str:
        """Submit a job without a loss. Each run of an attempt appends a line to a file that `runs` counts."""
        return launch(self.world.direct, self.command(script), name=fields.pop("name", None) or self.unique(), **fields)

    def command(self, script: str) -> list[str]:
        """Return a command that writes a proof of its run and then runs a shell script."""
        return ["sh", "-c", f'echo >> "{self.world.directory}/run.$IRIS_JOB_ID.$IRIS_ATTEMPT_ID"; {script}']

    def runs(self, job_id: str) -> list[int]:
        """Return how often each attempt ran."""
        counts = []
        while (proof := self.world.directory / f"run.{job_id}.{len(counts)}").exists():
            counts.append(proof.read_text().count("\n"))
        return counts

    def unique(self) -> str:
        """A name for a job."""
        return unique(self.call.partition("/")[2])

    def _method(self) -> Any:
        service, _, method = self.call.partition("/")
        proxy = self.world.controller_proxy if service == "ControllerService" else self.world.worker_proxy
        shown = token() if service == "ControllerService" else controller_token("w")
        stub = getattr(cluster_connect, f"{service}ClientSync")(
            proxy.address, send_compression=None, interceptors=(BearerInterceptor(lambda: shown),)
        )
        return getattr(stub, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method)[1:])


@contextmanager
def lossy_world(directory: Path, *worker_options: str) -> Iterator[LossyWorld]:
    """Start the world: a controller and a real worker that uploads its logs, each behind a proxy."""
    engine = FakeEngine({"w": Resources.of(cpu=100, memory_bytes=2**40)})
    keeping = Keeping(LogDirectories(directory / "kept"), outputs=OutputKeeping(directory / "outputs"))
    with (
        serving(engine, Store(directory / "controller.db"), kept_logs=keeping) as controller,
        LossyProxy(controller.address) as proxy,
        running_worker(proxy.address, directory / "w", "--advertise", WORKER_HOST, *worker_options) as process,
        RemoteClusterClient(controller.address) as direct,
        RemoteClusterClient(proxy.address) as lossy,
        IrisClient.remote(proxy.address) as client,
    ):
        (worker,) = wait_until(direct.list_workers, "the worker")
        port = urlsplit(worker.address).port
        assert port is not None
        address = f"http://127.0.0.1:{port}"
        with LossyProxy(address, host=WORKER_HOST, port=port) as worker_proxy:
            yield LossyWorld(controller, proxy, worker_proxy, process, address, direct, lossy, client, directory)


def launch_request(name: str, command: list[str], **fields: Any) -> cluster_pb2.Controller.LaunchJobRequest:
    """Return a submission request with a new submission id."""
    request = cluster_pb2.Controller.LaunchJobRequest(
        name=name, command=command, submission_id=unique("submission"), **fields
    )
    request.resources.replicas = 1
    return request
