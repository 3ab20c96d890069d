-- Common to checkpoint, finish and release; prepended after batch.lua.
--
-- KEYS  the shard's, then of each report: batch, its details, its run
-- ARGV  1 numbers (HEAD): of reports, retry fraction, and two settings of the script; then of each report: batch id, fence,
--       numbers (REPORT_HEAD): sequence, progress, how many outcomes have a reply text, how many groups; indexes of
--       intents; if there are reply texts their places among the outcomes (from 1), and the texts; of each group kind, code,
--       retry_after_ms, indexes. A group is of outcomes that follow each other and differ in nothing but recipient and reply text.
--       Indexes and places are packed, a byte each (255: one that no batch has): an argument for each would cost more than what is
--       done with it.
-- returns of each report what the script says, or why it failed: every report is a transition of its own.

-- The report at hand, and what is the same for all of the call.
local REPORT, REPORTS, FRACTION, SETTINGS

local function begin_report()
  local first, second
  REPORTS, FRACTION, first, second = struct.unpack(HEAD, ARGV[1])
  SETTINGS = { first, second }
end

-- The report whose arguments begin here (`keys` come before its keys), and where the next begins.
local function read_report(at, keys)
  local sequence, progress, texts, groups = struct.unpack(REPORT_HEAD, ARGV[at + 2])
  if math.max(sequence, progress) > KEPT_MAX then corrupt('what a worker counts') end
  local report = { id = ARGV[at], fence = ARGV[at + 1], sequence = sequence, progress = progress, fraction = FRACTION,
    packed = ARGV[at + 3], intents = { string.byte(ARGV[at + 3], 1, -1) }, details = {}, groups = {},
    batch_key = KEYS[keys + 1], details_key = KEYS[keys + 2], run_key = KEYS[keys + 3] }
  at = at + 4
  for n = 1, texts do report.details[string.byte(ARGV[at], n)] = ARGV[at + n] end
  if texts > 0 then at = at + 1 + texts end
  local place = 0
  for n = 1, groups do
    local kind, after = ARGV[at], num(ARGV[at + 2], 'retry after')
    if not KINDS[kind] then corrupt('the outcome ' .. tostring(kind)) end
    local group = { kind = kind, code = ARGV[at + 1], after = after, indexes = { string.byte(ARGV[at + 3], 1, -1) }, place = place }
    place = place + #group.indexes
    report.groups[n] = group
    at = at + 4
  end
  return report, at
end

-- Carries out one report after the other, each whole before the next begins. All are read before, and one that fails
-- must not cost the others their answers, unless it is alone.
local function each_report(act)
  local reports, at, answers = {}, 2, {}
  for n = 1, REPORTS do
    reports[n], at = read_report(at, OWN + (n - 1) * 3)
  end
  for n, report in ipairs(reports) do
    REPORT = report
    if #reports == 1 then
      answers[1] = act()
    else
      local ok, answer = pcall(act)
      answers[n] = ok and answer or type(answer) == 'table' and answer.err or tostring(answer)
      run_settled, moved = false, {}
    end
  end
  write_growth()
  write_counts()
  if woke then wake_all() end
  return answers
end

-- The batch of the report, or nil when it is gone. One that is leased and unreadable is set aside.
local function reported_batch()
  local run_id = string.match(REPORT.id, '^(.+)%.%d+$') or ''
  if not (run and run.id == run_id or load_run(run_id, REPORT.run_key)) then return nil end
  local b, wrong = load_batch(REPORT.id, REPORT.batch_key, REPORT.details_key)
  if not b then
    check_types()
    local hold = hold_of(REPORT.id)
    if hold then quarantine(REPORT.id, hold, wrong) end
    return nil
  end
  b.suspected = suspect(b)
  return b
end

-- The report is that of the lease.
local function is_current(b)
  return b.hold and not b.hold.is_stale and not fences_differ(b.hold.fence, REPORT.fence)
end

-- A report with a fence that is not current: its outcomes are facts. 'settled' or 'lost'.
local function take_as_facts(b)
  local from, applied = place_of(b), b.suspected
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
  elseif applied then
    commit(b)
    if b.hold then keep_lease(b) end
  end
  -- Otherwise nothing is written: a tombstone must not grow by what it knew already.
  count_run()
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
