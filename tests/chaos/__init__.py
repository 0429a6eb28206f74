"""Kills, stops and starves a cluster under a load of jobs, and checks at the end that nothing was lost or done twice:
`poe chaos --seed 7 --minutes 10`.

    load.py        clients that submit jobs, and what was promised to them
    task.py        what the tasks of these jobs do: each run writes a proof, as it goes
    faults.py      the cluster, and what happens to it
    surroundings.py  its clock, which is set, and its disk, which fills
    readers.py     readers who ask for everything, and leave
    run.py         one run, from the start of the cluster to the report
    invariants.py  what must hold at the end

The seed determines the submitted jobs, the killed and stopped processes, the times of these faults counted from the
start, and the failpoints that strike. The seed does not determine how processes interleave. Therefore you may need
several runs with the same seed to repeat a failure.
"""
