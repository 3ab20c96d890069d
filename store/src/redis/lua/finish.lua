-- finish: the last outcomes; the batch settles or its rest goes back.
-- KEYS     see report.lua
-- ARGV     see report.lua; its settings are not used
-- returns  status (gone, lost, settled, returned, in_intent), due in ms
-- refuses  all, until the server was compared; a fence that is not current (outcomes are taken as facts);
--          to end a lease with somebody in intent

await_comparison()
return each_report(function() return end_lease(nil) end)
