"""Kills, stops and starves a cluster under a load of jobs, for as long as one likes, and checks at the end that nothing
was lost and nothing was done twice: `poe chaos --seed 7 --minutes 10`.

    load.py        clients that submit jobs, and what was promised to them
    task.py        what the tasks of these jobs do: each run writes a proof, as it goes
    faults.py      the cluster, and what happens to it
    surroundings.py  its clock, which is set, and its disk, which fills
    readers.py     readers who ask for everything, and leave
    run.py         one run, from the start of the cluster to the report
    invariants.py  what must hold at the end

The seed decides what is submitted, who is killed and stopped and when, counted from the start, and where failpoints
strike. How the processes interleave is not repeated: a failure may need several runs with its seed to come again.
"""
