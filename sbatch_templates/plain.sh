# Slurm only: runs a copy of the code with the Python that sor was called with.
# Names in double braces are replaced by quoted values: write no quotes around them.
export {{environment}}
export PYTHONPATH={{code}}:"${PYTHONPATH:-}":"$PWD"

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  {{python}} -u -m {{module}} {{submission}}
