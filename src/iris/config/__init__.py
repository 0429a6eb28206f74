"""Defines the configuration of a cluster: every option of `iris up` and of its file `cluster.toml`, exactly once.

The command line, the server, the engines and the workers read this package. The package imports no part of a cluster.
"""

from iris.config.cluster_config import (
    DEFAULT_MAX_LOG_BYTES,
    DEFAULT_PORT,
    LOCAL_ENGINE,
    ClusterConfig,
    Option,
)
from iris.config.config_file import known_options, read_config_file

__all__ = [
    "DEFAULT_MAX_LOG_BYTES",
    "DEFAULT_PORT",
    "LOCAL_ENGINE",
    "ClusterConfig",
    "Option",
    "known_options",
    "read_config_file",
]
