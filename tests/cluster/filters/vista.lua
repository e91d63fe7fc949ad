-- Nodes are whole, with all memory, and compute nodes do not submit. Options for GPUs are refused by Slurm itself.
function rules(job)
   if job.environment["SLURM_JOB_ID"] ~= nil then
      refuse("[TACC]: Job submission is not allowed from this host. Please submit through one of the login nodes.")
   end
   if asks_for_memory(job) then
      refuse("--> Submission error: --mem is not supported; jobs have all memory of their nodes")
   end
   if job.min_nodes == slurm.NO_VAL then
      refuse('--> Submission error: please define total node count with the "-N" option')
   end
   if job.time_limit == slurm.NO_VAL then
      refuse('--> Submission error: please define a run time with the "-t" option')
   end
   if job.partition == nil then
      refuse('--> Submission error: please define a queue with the "-p" option')
   end
end
