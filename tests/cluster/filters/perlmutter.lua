-- Users name a constraint and a QOS; partition, name of the QOS and the account for GPUs follow from these.
local QOS = {
   gpu = {debug = "gpu_debug", regular = "gpu_regular", shared = "gpu_shared"},
   cpu = {debug = "cpu_debug", regular = "cpu_regular", shared = "cpu_shared"},
}

function rules(job)
   if job.partition ~= nil then
      refuse("Explicit partitions are not supported: the constraint and the QOS choose one")
   end
   local kind = constrained(job, "gpu") and "gpu" or constrained(job, "cpu") and "cpu"
   if not kind then
      refuse("No architecture specified, cannot estimate job costs.")
   end
   local qos = job.qos or "debug"
   if not QOS[kind][qos] then
      refuse("Job request does not match any supported policy.", "QOS " .. qos .. " is none of debug, regular, shared")
   end
   local account = job.account or job.default_account
   if kind == "cpu" and account:find("_g$") then
      refuse("Account " .. account .. " has no CPU hours: use the project without _g")
   end
   if kind == "gpu" and not account:find("_g$") then
      account = account .. "_g"
   end
   if qos == "shared" and kind == "gpu" then
      if gpus(job) < 1 or gpus(job) > 2 then
         refuse("Job request does not match any supported policy.", "QOS shared is for 1 or 2 GPUs")
      end
      if asks_for_memory(job) then
         refuse("Memory comes with the GPUs in QOS shared: remove --mem")
      end
   end
   job.account = account
   job.qos = QOS[kind][qos]
   job.partition = (qos == "shared" and "shared_" or "") .. kind .. "_ss11"
end
