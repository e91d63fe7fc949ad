# End of every job: requeue it if its work asks for that.
#
# Placed before the template, whose last exit code it receives. The requeue verdict is in a file of the
# submission's folder: "again", "memory" (again, with more memory) or "stop". If no rank could write it, exit
# code 75 means "again", and so does that of a kill from outside; repeated runs without progress end themselves.
# A run killed for its memory limit is requeued once, with the request raised; its limit is then in the file
# .memory, for the next run, and for diagnosis if none follows.
# Names in double braces are replaced by quoted values: write no quotes around them.
# Not SLURM_JOB_ID, which for one element of each array is the ID of the whole array, except without an array.
this_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
this_job=${this_job:-$SLURM_JOB_ID}
element={{submission}}/$this_job
verdict=$element.${SLURM_RESTART_COUNT:-0}.verdict
mine=$SLURM_JOB_NAME   # distinguishes this job from one with the same ID on another cluster
raise={{raise}}   # argument of scontrol update, such as MinMemoryNode=2048; empty: do not raise the request
began=$(stat --format=%s "${element}_0_log.out" 2>/dev/null)   # bytes logged by earlier runs

ask_slurm() {   # set `state`, and `where` to reach the same controller by scontrol; fail if none knows the job
  local lines line
  for where in '' ${SLURM_CLUSTER_NAME:+"--clusters=$SLURM_CLUSTER_NAME"}; do
    lines=$(trap '' TERM; unset SLURM_CLUSTERS; squeue --noheader $where --jobs="$this_job" --format='%T %j')
    while read -r line; do
      state=${line%% *}
      [ "$line" != "$state $mine" ] || return 0
    done <<< "$lines"
  done
  return 1
}

killed_for_memory() {
  tail --bytes=+$((${began:-0} + 1)) "${element}_0_log.out" 2>/dev/null | tail --bytes=16384 |
    grep --quiet --extended-regexp {{killed}}
}

finish() {
  local code=$? said= try state where refused=0 ended= memory=
  local limit=${SLURM_MEM_PER_NODE:-${SLURM_MEM_PER_CPU:-0}}
  trap 'ended=1' TERM      # the Slurm commands below ignore it, as it would kill them
  if [ -e "$verdict" ]; then
    said=$(cat "$verdict")
    rm -f "$verdict"
    [ "$said" != stop ] || exit $((code ? code : 1))
    said=${said:-again}   # the disk was full if it is empty
  fi
  if [ "$said" = memory ] || { [ $code -ne 0 ] && killed_for_memory; }; then
    memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-1}))}
    # An earlier run had the same limit: Slurm refused to raise the request.
    [ "$(cat "$element.memory" 2>/dev/null)" != "$memory" ] || raise=
    echo "$memory" > "$element.memory"
    if [ "$limit" -ge "${raise##*=}" ] 2>/dev/null || [ -z "$raise" ]; then
      raise=
      if [ -z "$said" ]; then
        echo "killed for its memory limit of $memory MiB per node, and not requeued"
        exit $((code ? code : 1))
      fi
    fi
  elif [ -z "$said" ] && [ $code -ne 75 ] && { [ $code -le 128 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ]; }; then
    exit $code
  fi
  for try in {1..24}; do   # retry for five minutes if the controller does not answer
    if ask_slurm; then
      # Any other state: it was canceled, its time is up, or Slurm requeues it by itself.
      [ "$state" = RUNNING ] || break
      ended=
      if (trap '' TERM; unset SLURM_CLUSTERS; exec scontrol $where requeue "$this_job"); then
        if [ "$memory" ] && [ "$raise" ]; then
          for try in 1 2 3; do   # again if the requeue's TERM has ended the subshell before that ignored it
            (trap '' TERM; unset SLURM_CLUSTERS; exec scontrol $where update job="$this_job" "$raise")
            code=$?
            [ $code -ne 0 ] || echo "killed for its memory limit of $memory MiB per node: requeued with $raise"
            [ $code -gt 128 ] || break
          done
        fi
        trap - TERM
        [ "$ended" ] || sleep 600         # Slurm ends it within that time, unless TERM has come already
        break
      fi
      [ $((++refused)) -lt 3 ] || break   # some clusters never allow it
    fi
    sleep "$try"
  done
  exit 1   # jobs that depend on this one's success must not start
}
trap finish EXIT
trap : TERM   # it would kill bash, and its ranks before they have saved
