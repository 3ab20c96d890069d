-- release: the unsent rest goes back at once.
-- KEYS     see report.lua
-- ARGV     see report.lua; 3: 1 to abandon (those in intent become in doubt), 4: doubt grace ms
-- returns  status (gone, lost, settled, returned, in_intent), due in ms
-- refuses  all, until the server was compared; a fence that is not current (outcomes are taken as facts);
--          to end a lease with somebody in intent, unless abandoned

await_comparison()
local grace = num(ARGV[4], 'doubt grace')
if ARGV[3] ~= '1' then grace = nil end
return each_report(function() return end_lease(grace) end)
