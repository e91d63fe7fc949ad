-- A QOS is required, and chooses the partition. Memory comes with the cores.
function rules(job)
   if job.qos == nil then
      refuse("No QoS specified: use --qos, as in acc_ehpc or gp_ehpc")
   end
   if job.account == nil then
      refuse("No account specified: use --account")
   end
   if asks_for_memory(job) then
      refuse("Memory comes with the cores: remove --mem")
   end
   local partition = job.qos:find("^acc_") and "acc" or "gpp"
   if job.partition ~= nil and job.partition ~= partition then
      refuse("QoS " .. job.qos .. " does not belong to partition " .. job.partition)
   end
   job.partition = partition
end
