# A container that a file describes (`srun --environment`), as at CSCS; its own Python runs a copy of the code.
#   edf          path of that file, a .toml, or the name of one in ~/.edf; it has to mount the study's folder
#   interpreter  Python in the container: python3, or that of a virtual environment that was made inside it
# Names in double braces are replaced by quoted values: write no quotes around them; words after = are defaults.
export {{environment}}

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  --environment={{edf}} \
  env {{environment}} PYTHONPATH={{code}}:"$PWD" {{interpreter=python3}} -u -m {{module}} {{submission}}
