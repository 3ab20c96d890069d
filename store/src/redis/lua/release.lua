-- release: the unsent rest goes back at once.
-- KEYS     see report.lua
-- ARGV     see report.lua; its settings: 1 to abandon (those in intent become in doubt), doubt grace ms
-- returns  status (gone, lost, settled, returned, in_intent), due in ms
-- refuses  all, until the server was compared; a fence that is not current (outcomes are taken as facts);
--          to end a lease with somebody in intent, unless abandoned

await_comparison()
local grace = SETTINGS[2]
if SETTINGS[1] ~= 1 then grace = nil end
return each_report(function() return end_lease(grace) end)
