-- Jobs on one node get slices of it, an eighth or with GPUs a quarter, and every submission is commented on.
local SLICE = {gpu_h100 = 16, rome = 16}

local function given(number)
   return number ~= slurm.NO_VAL and number ~= slurm.NO_VAL16 and number or 1
end

function rules(job)
   local partition = job.partition or "rome"
   if partition == "gpu_h100" and gpus(job) == 0 then
      refuse("Partition gpu_h100 is for jobs with GPUs: use --gpus-per-node")
   end
   if given(job.min_nodes) > 1 then
      return
   end
   if given(job.num_tasks) == 1 then
      job.cpus_per_task = math.max(given(job.cpus_per_task), SLICE[partition] * math.max(1, gpus(job)))
   end
   slurm.log_user("Single-node jobs run on a shared node by default. Add --exclusive to use a node exclusively.")
   slurm.log_user("You will be charged for %d CPU cores and %d GPUs.",
                  given(job.num_tasks) * given(job.cpus_per_task), gpus(job))
end
