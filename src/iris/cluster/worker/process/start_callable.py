"""The program of a task's process that runs a callable. The program only loads and calls `run_callable.py`.

        python -P start_callable.py ENTRYPOINT_FILE RESULT_FILE [PICKLED_BY [INPUT_FILE]]

Python compiles the file of a program at each start, but stores the bytecode of a module. Therefore the program is this
short file. Compiling `run_callable.py` would take 3 ms of CPU time in each task.

The worker does not use `python -m iris.cluster.worker.process.run_callable`, because a file `iris.py` in the task's
working directory would hide the package. For the same reason, this program loads the module by its path.
"""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # `run_callable.py` enables the garbage collector when all modules are loaded.
    import importlib.util
    import os

    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_callable.py")
    spec = importlib.util.spec_from_file_location("_iris_run_callable", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
