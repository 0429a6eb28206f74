"""Count the words of files. Each task of the job counts its share of the files.

iris run --replicas 4 -- python examples/word_count.py README.md docs/*/*.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from iris.cluster.types import JobInfo, get_job_info


def main(names: list[str]) -> int:
    """Print the number of words of each file in this task's share, and their sum.

    Returns:
        The exit code: 1 if a file cannot be read.
    """
    me = get_job_info() or JobInfo(job_id="alone")  # outside a job this is the only task
    failed = False
    total = 0
    for name in names[me.task_index :: me.num_tasks]:
        try:
            words = len(Path(name).read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{words:7} {name}")
        total += words
    print(f"{total:7} words in the files of task {me.task_index} of {me.num_tasks}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
