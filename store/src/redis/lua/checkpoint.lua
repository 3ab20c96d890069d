-- checkpoint: outcomes so far, intents wanted, and the lease lives on.
-- KEYS     see report.lua
-- ARGV     see report.lua; its settings: ttl ms, window; the last two: the instants from when until before when intents
--          are granted (empty: at any time), and limits, see pace.lua
-- returns  status (gone, lost, settled, held), ttl left ms, granted indexes (packed as they came), refused intents by their
--          place among the intents, each followed by its reason (throttled:MS tells when to ask again)
-- refuses  all, until the server was compared; a fence that is not current (outcomes are taken as facts);
--          single intents, by the reasons of the page

await_comparison()
local ttl, window = SETTINGS[1], SETTINGS[2]
local paused_lanes = {}
-- The windows of the run or its lane are closed.
local is_closed = false
if ARGV[#ARGV - 1] ~= '' then
  local from, till = string.match(ARGV[#ARGV - 1], '^(%-?%d+)|(%-?%d+)$')
  if not from then corrupt('the span of grants') end
  is_closed = now < tonumber(from) or now >= tonumber(till)
end
-- The usual way is short: of the keys it writes, only the counters are not read before.
check_type('HLEN', K.count)

local function is_paused(lane)
  if paused_lanes[lane] == nil then paused_lanes[lane] = call('SISMEMBER', K.lanes, lane) == 1 end
  return paused_lanes[lane]
end

local function checkpoint()
  local b = reported_batch()
  if not b then return { 'gone', 0, '', {} } end
  if not is_current(b) then
    check_types()
    return { take_as_facts(b), 0, '', {} }
  end

  local seen = b.hold.sequence
  local fresh = take_outcomes(b)
  local counter = fence_counter(b.hold.fence)
  -- The lane's and the site's, if they are limited. What this batch has in intent is counted among them.
  local limits, meters, counted = ARGV[#ARGV], {}, b.hold.counted
  if limits ~= '' then
    meters[1] = meter_of(limits, 'L', run.lane)
    meters[#meters + 1] = meter_of(limits, 'S', b.entry.site)
    for _, m in ipairs(meters) do m.in_intent = m.in_intent - counted + b.open end
  end
  if #meters > 0 or counted > 0 then check_types() end
  local left, throttled = counted > b.open, 0

  -- How long an intent must wait for room, if it must.
  local function must_wait()
    local wait
    for _, m in ipairs(meters) do
      local w = wait_of(m, throttled + 1)
      if w then m.refused = m.refused + 1 end
      if w and (not wait or w > wait) then wait = w end
    end
    if wait then throttled = throttled + 1 end
    return wait
  end

  local lane_paused = is_paused(run.lane)

  -- A late copy of a report must not take back with its outcome what it granted with its intent.
  local least, most, settled = math.huge, -1, nil
  for _, group in ipairs(REPORT.groups) do
    least, most = math.min(least, unpack(group.indexes)), math.max(most, unpack(group.indexes))
  end
  local function settled_here(index)
    -- Mostly the intents are of other recipients than all outcomes.
    if index < least or index > most then return false end
    if not settled then
      settled = {}
      for _, group in ipairs(REPORT.groups) do
        for _, other in ipairs(group.indexes) do settled[other] = true end
      end
    end
    return settled[index]
  end

  local function refusal(index)
    if index >= b.count or settled_here(index) then return 'repeated' end
    local state = b.st[index + 1]
    if state == I and look_at(b, index).intent == counter then return nil end
    if not fresh then return 'repeated' end
    if is_final(state) or state == I or b.erased[index] then return 'settled' end
    if run.cancelled then return 'cancelled' end
    if is_closed or STOPPED or run.parked or lane_paused then return 'paused' end
    if not is_offered(b.sus, index) then return 'outside' end
    if state == D and look_at(b, index).due_at > now then return 'not_due' end
    if b.hold.hard_at - now < TRANSACTION_MS_MAX then return 'hard_cap' end
    if b.open >= window then return 'window' end
    if b.checked < SUPPRESSED then return 'unchecked' end
    local wait = must_wait()
    return wait and 'throttled:' .. int(wait)
  end

  -- Grants the intent at `n` and, where each needs no look of its own, those alike that follow it. How many.
  local granted, refused, intents = '', {}, REPORT.intents
  local apart = least > math.max(-1, unpack(intents)) or most < math.min(math.huge, unpack(intents))
  local function grant_from(n)
    if b.st[intents[n] + 1] == I then return 1 end
    for _, m in ipairs(meters) do
      m.debt, m.in_intent, m.changed = m.debt + COST, m.in_intent + 1, m.changed or m.paced
    end
    local is_part = b.sus and b.sus.first
    local room = apart and #meters == 0 and not is_part and not next(b.erased) and math.min(#intents - n + 1, window - b.open) or 1
    return change_alike(b, intents, n, room, grant, grant, counter)
  end

  local n = 1
  while n <= #intents do
    local index, alike = intents[n], 1
    local reason = refusal(index)
    if reason then
      -- The same report is made again once it is checked.
      if reason == 'unchecked' then b.hold.sequence = seen end
      refused[#refused + 1] = n
      refused[#refused + 1] = reason
    else
      alike = grant_from(n)
      granted = granted .. string.sub(REPORT.packed, n, n + alike - 1)
    end
    n = n + alike
  end

  if now - b.hold.progress_at <= TRANSACTION_MS_MAX then
    b.hold.expires_at = math.max(b.hold.expires_at, math.min(now + ttl, b.hold.hard_at))
  end
  -- Whoever was in intent under this fence left it there.
  if granted ~= '' and not b.known_fence and b.h['f' .. counter] ~= b.hold.fence then b.fields['f' .. counter] = b.hold.fence end
  commit(b)
  for _, m in ipairs(meters) do
    write_pace(m)
    if m.shared and m.refused > 0 then write_refused(m) end
  end
  if #meters > 0 or counted > 0 then
    b.hold.counted = b.open
    count_flight(b.entry, b.open - counted, left)
  end
  write_hold(b, ttl)
  count_run()
  return { 'held', math.max(b.hold.expires_at - now, 0), granted, refused }
end

return each_report(checkpoint)
