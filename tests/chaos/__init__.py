"""The demo study on a real Slurm of the tests, while faults strike its jobs, its nodes and Slurm itself.

    make chaos                            50 faults
    python -m chaos --seed 3 --faults 8   a few, others

What is checked at the end stands in verify.py. A seed fixes which faults come in which order, and for each of
them what it would choose; what it can choose from depends on how far the study has come.

    study.py    what runs: the demo with few prompts, and the same study undisturbed
    lab.py      the cluster with the study on it, as the faults and the driver see it
    faults.py   what can go wrong, and how it is put right
    driver.py   strikes, and does what a person would: submits again where nothing moves any more
    watch.py    what the study tells of its progress; from it, how much work was lost
    verify.py   the result, held against an undisturbed run's
    inside/     goes into the jobs
"""
