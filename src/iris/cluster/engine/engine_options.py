"""The names of the engines, and the options of `iris up` that apply to one engine only."""

from __future__ import annotations

from collections.abc import Mapping

from iris.errors import InvalidArgumentError

# The options of `iris up` that apply to one engine only, by the engine's name.
OPTIONS: dict[str, tuple[str, ...]] = {
    "local": ("workers", "label"),
    "ray": ("ray_address",),
    "slurm": ("slurm_option",),
}
ENGINES = tuple(OPTIONS)
RAY_ADDRESS = "auto"  # the Ray cluster of which this machine is a part


def check_engine_options(given: Mapping[str, object]) -> None:
    """Refuse options that would have no effect with the chosen engine.

    Args:
        given: Option values by name, including `engine`. An empty value means that the option was not given.

    Raises:
        InvalidArgumentError: An option belongs to another engine.
    """
    engine = str(given["engine"] or "local")
    for other, names in OPTIONS.items():
        for name in names if other != engine else ():
            if given.get(name):
                raise InvalidArgumentError(
                    f"--{name.replace('_', '-')} applies to --engine {other} only, but this cluster uses"
                    f" --engine {engine}"
                )
