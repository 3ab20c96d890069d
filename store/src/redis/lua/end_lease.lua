-- Common to finish and release; prepended after report.lua. A grace abandons those in intent; after a delay in ms
-- the rest is due at the earliest.

local function end_lease(grace, delay)
  local b = reported_batch()
  if not b then return { 'gone', 0 } end
  local ended_before = b.ended ~= '' and not fences_differ(b.ended, REPORT.fence)
  if not is_current(b) then
    if CHECKS_ITSELF then check_types() end
    local status = take_as_facts(b)
    if status == 'lost' and ended_before then status = 'returned' end
    return { status, 0 }
  end
  take_outcomes(b)
  if grace then doubt_intents(b, grace) end
  if b.open > 0 then
    if CHECKS_ITSELF then check_types() end
    commit(b)
    keep_lease(b)
    count_run()
    return { 'in_intent', 0 }
  end
  b.fields.ended = REPORT.fence
  local to, due = put_back(b, 'leased', now + (delay or 0))
  count_run()
  if to == 'settled' then return { 'settled', 0 } end
  return { 'returned', to == 'delayed' and due - now or 0 }
end
