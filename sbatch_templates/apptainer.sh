# An Apptainer or Singularity container, whose own Python runs a copy of the code. Variables:
#   program      apptainer or singularity        image  image file
#   gpu          --nv (NVIDIA) or --rocm (AMD)   binds  folders that jobs need in addition to the study's: /a,/b
#   use          folders of modules (module use), and
#   modules      modules to load before the container starts; by default none
#   interpreter  Python in the container: python3, or that of a virtual environment that was made inside it with
#                --system-site-packages, for packages that the image lacks
# Names in double braces are replaced by quoted values: write no quotes around them; words after = are defaults.
modules=({{modules=}}) use=({{use=}})
if [ ${#modules[@]} -gt 0 ]; then
  command -v module >/dev/null || source /etc/profile
  [ ${#use[@]} -eq 0 ] || module use "${use[@]}"
  module load "${modules[@]}" || exit
fi
export {{environment}}

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  {{program}} exec {{gpu}} --bind={{study}} --bind={{binds}} {{image}} \
  env {{environment}} PYTHONPATH={{code}}:"$PWD" {{interpreter=python3}} -u -m {{module}} {{submission}}
