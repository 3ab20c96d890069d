-- Common to checkpoint, finish and release; prepended after batch.lua.
--
-- KEYS  the shard's, then: batch, its details, its run
-- ARGV  1 batch id, 2 fence, 3 sequence, 4 progress, 5 retry fraction, 6 and 7 of the script, 8 indexes of intents,
--       9 number of outcomes that have a reply text, then its place among the outcomes and the text of each; then the
--       number of groups and four for each (kind, code, retry_after_ms, indexes). A group is of outcomes that follow
--       each other and differ in nothing but recipient and reply text. Indexes are packed, a byte each (255: one that no
--       batch has): an argument for each would cost more than what is done with it.

local REPORT

-- Of this call, after `begin_batch`.
local function begin_report()
  REPORT = { id = ARGV[1], fence = ARGV[2], sequence = num(ARGV[3], 'sequence'),
    progress = num(ARGV[4], 'progress'), fraction = num(ARGV[5], 'fraction'), intents = { string.byte(ARGV[8], 1, -1) },
    details = {}, groups = {} }
  local at = 10
  for _ = 1, num(ARGV[9], 'reply texts') do
    REPORT.details[num(ARGV[at], 'a place')] = ARGV[at + 1]
    at = at + 2
  end
  local place = 0
  for n = 1, num(ARGV[at], 'groups') do
    local kind, after = ARGV[at + 1], num(ARGV[at + 3], 'retry after')
    if not KINDS[kind] then corrupt('the outcome ' .. tostring(kind)) end
    local group = { kind = kind, code = ARGV[at + 2], after = after, indexes = { string.byte(ARGV[at + 4], 1, -1) }, place = place }
    place = place + #group.indexes
    REPORT.groups[n] = group
    at = at + 4
  end
end

-- The batch of the report, or nil when it is gone. One that is leased and unreadable is set aside.
local function reported_batch()
  if not load_run(string.match(REPORT.id, '^(.+)%.%d+$') or '', KEYS[OWN + 3]) then return nil end
  local b, wrong = load_batch(REPORT.id, KEYS[OWN + 1], KEYS[OWN + 2])
  if not b then
    check_types()
    local hold = hold_of(REPORT.id)
    if hold then quarantine(REPORT.id, hold, wrong) end
  end
  return b
end

-- A report with a fence that is not current: its outcomes are facts. 'settled' or 'lost'.
local function take_as_facts(b)
  local from, applied = place_of(b), false
  for _, group in ipairs(REPORT.groups) do
    for n, index in ipairs(group.indexes) do
      local detail = REPORT.details[group.place + n] or ''
      local o = { index = index, kind = group.kind, code = group.code, detail = detail, after = group.after }
      if fact(b, REPORT.fence, o, REPORT.fraction) == 'applied' then applied = true end
    end
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

-- Keeps the reply texts of some that had this record before, see `take_detail`.
local function take_details(b, group, n, number, r)
  local tried = was_tried(r)
  if group.kind == 'w' or not (tried or next(REPORT.details)) then return end
  for at = n, n + number - 1 do
    local detail = REPORT.details[group.place + at]
    if detail or tried then b.detail[group.indexes[at]] = detail or '' end
  end
end

-- What these outcomes say about who ends workers.
local function note_outcomes(b, group, n, number)
  if group.kind == 'w' then return end
  b.hold.outcome = 'o'
  if not b.sus then return end
  for at = n, n + number - 1 do suspicion_outcome(b.sus, group.indexes[at]) end
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
    for _, group in ipairs(REPORT.groups) do
      local indexes = group.indexes
      local n, number = 1, #indexes
      while n <= number do
        local index, alike = indexes[n], 1
        if index < b.count and b.st[index + 1] == I then
          local r = look_at(b, index)
          if IGNORE_FENCES or r.intent == counter then
            alike = change_alike(b, indexes, n, number - n + 1, group, settle, group, REPORT.fraction)
            take_details(b, group, n, alike, r)
            note_outcomes(b, group, n, alike)
            b.known_fence = r.intent == counter
            hold.progress_at = now
          end
        end
        n = n + alike
      end
    end
  end
  return REPORT.sequence > seen
end
