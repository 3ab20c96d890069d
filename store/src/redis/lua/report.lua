-- Common to checkpoint, finish and release; prepended after batch.lua.
--
-- KEYS  the shard's, then: batch, its details, its run
-- ARGV  1 batch id, 2 fence, 3 sequence, 4 progress, 5 retry fraction, 6 and 7 of the script, then the
--       number of outcomes and five for each (index, kind, code, detail, retry_after_ms), then the number
--       of intents and each index

local REPORT = { id = ARGV[1], fence = ARGV[2], sequence = num(ARGV[3], 'sequence'),
  progress = num(ARGV[4], 'progress'), fraction = num(ARGV[5], 'fraction'), outcomes = {}, intents = {} }

do
  local at = 9
  for _ = 1, num(ARGV[8], 'outcomes') do
    REPORT.outcomes[#REPORT.outcomes + 1] = outcome_at(at)
    at = at + 5
  end
  local intents = num(ARGV[at], 'intents')
  for offset = 1, intents do REPORT.intents[offset] = num(ARGV[at + offset], 'intent') end
end

-- The batch of the report, or nil when it is gone. One that is leased and unreadable is set aside.
local function reported_batch()
  if not load_run(string.match(REPORT.id, '^(.+)%.%d+$') or '', KEYS[OWN + 3]) then return nil end
  local b, wrong = load_batch(REPORT.id, KEYS[OWN + 1], KEYS[OWN + 2])
  if not b then
    local hold = hold_of(REPORT.id)
    if hold then quarantine(REPORT.id, hold, wrong) end
  end
  return b
end

-- A report with a fence that is not current: its outcomes are facts. 'settled' or 'lost'.
local function take_as_facts(b)
  local from, applied = place_of(b), false
  for _, o in ipairs(REPORT.outcomes) do
    if fact(b, REPORT.fence, o, REPORT.fraction) == 'applied' then applied = true end
  end
  local to = from
  if applied and from ~= 'leased' and from ~= 'dead' then
    to = put_back(b, from)
  else
    commit(b)
    if applied and b.hold then keep_lease(b) end
  end
  write_run()
  return to == 'settled' and 'settled' or 'lost'
end

-- Takes the outcomes of a holder. True: the sequence is new.
local function take_outcomes(b)
  local hold, counter = b.hold, fence_counter(REPORT.fence)
  local seen = hold.sequence
  hold.sequence = math.max(seen, REPORT.sequence)
  if REPORT.progress > hold.progress then
    hold.progress = REPORT.progress
    hold.progress_at = now
  end
  if REPORT.sequence >= seen then
    for _, o in ipairs(REPORT.outcomes) do
      if o.index < b.count and b.st[o.index + 1] == I
        and (IGNORE_FENCES or look_at(b, o.index).intent == counter) then
        take_detail(b, o.index, o)
        change(b, o.index, o.key, settle, o, REPORT.fraction)
        hold.progress_at = now
        if o.kind ~= 'w' then
          hold.outcome = 'o'
          if b.sus then suspicion_outcome(b.sus, o.index) end
        end
      end
    end
  end
  return REPORT.sequence > seen
end
