-- release: the unsent rest goes back, at once or not before a delay.
-- KEYS     see report.lua
-- ARGV     see report.lua; its settings: 1 to abandon (those in intent become in doubt) and the doubt grace in ms,
--          or 0 and the delay in ms
-- returns  status (gone, lost, settled, returned, in_intent), due in ms
-- refuses  all, until the server was compared; a fence that is not current (outcomes are taken as facts);
--          to end a lease with somebody in intent, unless abandoned

await_comparison()
local grace, delay = SETTINGS[2], 0
if SETTINGS[1] ~= 1 then grace, delay = nil, SETTINGS[2] end
return each_report(function() return end_lease(grace, delay) end)
