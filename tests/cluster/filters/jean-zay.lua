-- The constraint and the GPUs choose the partition, unless one is named; accounts are for one kind of node each.
local KINDS = {gpu_p6 = "h100", gpu_p13 = "v100", cpu_p1 = "cpu"}

function rules(job)
   if job.account == nil then
      refuse("no account given: use --account with one of your projects, as in abc@h100 or abc@cpu")
   end
   if job.partition == nil then
      if constrained(job, "h100") then
         job.partition = "gpu_p6"
      else
         job.partition = gpus(job) > 0 and "gpu_p13" or "cpu_p1"
      end
   end
   local kind = KINDS[job.partition]
   if kind and not job.account:find("@" .. kind .. "$") then
      refuse("account " .. job.account .. " has no hours in partition " .. job.partition,
             "its nodes need an account ending in @" .. kind .. ", and H100 GPUs --constraint=h100")
   end
   if job.qos == nil then
      job.qos = ({h100 = "qos_gpu_h100-t3", v100 = "qos_gpu-t3"})[kind] or "qos_cpu-t3"
   end
end
