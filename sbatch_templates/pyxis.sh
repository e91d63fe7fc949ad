# An enroot container through Slurm's pyxis plugin, whose own Python runs a copy of the code. Variables:
#   image        name in a registry, or path of a .sqsh file
#   mounts       folders that jobs need in addition to the study's: /a:/a,/b:/b
#   options      more options of srun; by default the home directory is not mounted over the image's
#   interpreter  Python in the container: python3, or that of a virtual environment that was made inside it
# Names in double braces are replaced by quoted values: write no quotes around them; words after = are defaults.
export {{environment}}

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  --container-image={{image}} --container-mounts={{study}}:{{study}},{{mounts}} \
  {{options=--no-container-mount-home}} \
  env {{environment}} PYTHONPATH={{code}}:"$PWD" {{interpreter=python3}} -u -m {{module}} {{submission}}
