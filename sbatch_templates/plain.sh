# Nothing but Slurm: a copy of the code, run with the Python that sor was called with.
# Names in double braces are filled in, quoted already: write no quotes around them.
export PYTHONPATH={{code}}:"${PYTHONPATH:-}":"$PWD"
export PYTHONSAFEPATH=1   # or Python would take the code of the working directory first

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  {{python}} -u -m {{module}} {{submission}}
