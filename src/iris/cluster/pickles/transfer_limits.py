"""Defines which callables can run on a worker, and how large the results and exceptions of tasks may be."""

# The largest size of a pickled result. The controller stores results in its database, and sends each result in a single
# message.
MAX_RESULT_BYTES = 8 * 1024**2
# The largest size of a pickled exception. The controller keeps an exception for each failed task.
MAX_EXCEPTION_BYTES = 64 * 1024
MAX_TRACEBACK_BYTES = 16 * 1024


def explain_python_mismatch(python: str, pickled_by: str) -> str:
    """Return the reason why a worker's Python cannot run a callable, or an empty string if the worker's Python can run
    the callable or one of the versions is unknown.

    Args:
        python: The worker's Python version, for example "3.12".
        pickled_by: The Python version that pickled the callable.
    """
    if python == pickled_by or not python or not pickled_by:
        return ""
    return (
        f"the callable was pickled by Python {pickled_by} and cannot run on this worker's Python {python}:"
        f" submit it from Python {python}, use a worker with Python {pickled_by}, or submit a command instead"
    )
