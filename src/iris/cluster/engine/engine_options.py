"""Which engines there are, and which options each of them has for itself."""

from __future__ import annotations

from collections.abc import Mapping

from iris.errors import InvalidArgumentError

# By the name of an engine, the options of `iris up` that are of use to it alone.
OPTIONS: dict[str, tuple[str, ...]] = {
    "local": ("workers", "label"),
    "ray": ("ray_address",),
    "slurm": ("slurm_option",),
}
ENGINES = tuple(OPTIONS)
RAY_ADDRESS = "auto"  # the Ray that runs on this machine


def check_engine_options(given: Mapping[str, object]) -> None:
    """Refuses what would be of no effect. `given`: options by name, with `engine`; what is empty was not given.

    Raises:
        InvalidArgumentError: One is another engine's.
    """
    engine = str(given["engine"] or "local")
    for other, names in OPTIONS.items():
        for name in names if other != engine else ():
            if given.get(name):
                raise InvalidArgumentError(
                    f"--{name.replace('_', '-')} is for --engine {other}, and this cluster has --engine {engine}"
                )
