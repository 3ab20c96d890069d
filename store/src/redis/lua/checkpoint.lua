-- checkpoint: outcomes so far, intents wanted, and the lease lives on.
-- KEYS     see report.lua
-- ARGV     see report.lua; 6: ttl ms, 7: window; the last: limits, see pace.lua
-- returns  status (gone, lost, settled, held), ttl left ms, granted indexes, refused indexes each followed by its reason
--          (throttled:MS tells when to ask again)
-- refuses  a fence that is not current (outcomes are taken as facts); single intents, by the reasons of the page

local ttl, window = num(ARGV[6], 'ttl'), num(ARGV[7], 'window')
local b = reported_batch()
if not b then return { 'gone', 0, {}, {} } end
if not b.hold or fences_differ(b.hold.fence, REPORT.fence) then return { take_as_facts(b), 0, {}, {} } end

local fresh = take_outcomes(b)
local open, counter = in_intent(b), fence_counter(b.hold.fence)
-- The lane's and the site's, if they are limited. What this batch has in intent is counted among them.
local limits, meters, counted = ARGV[#ARGV], {}, b.hold.counted
if limits ~= '' then
  meters[1] = meter_of(limits, 'L', run.lane)
  meters[#meters + 1] = meter_of(limits, 'S', b.entry.site)
  for _, m in ipairs(meters) do m.in_intent = m.in_intent - counted + open end
end
local left, throttled = counted > open, 0

-- How long an intent must wait for room, if it must.
local function must_wait()
  local wait
  for _, m in ipairs(meters) do
    local w = wait_of(m, throttled + 1)
    if w and (not wait or w > wait) then wait = w end
  end
  if wait then throttled = throttled + 1 end
  return wait
end

local lane_paused = call('SISMEMBER', K.lanes, run.lane) == 1

-- A late copy of a report must not take back with its outcome what it granted with its intent.
local settled_here = {}
for _, o in ipairs(REPORT.outcomes) do settled_here[o.index] = true end

local function refusal(index)
  if index >= b.count or settled_here[index] then return 'repeated' end
  local state = b.st[index + 1]
  if state == I and look_at(b, index).intent == counter then return nil end
  if not fresh then return 'repeated' end
  if is_final(state) or state == I then return 'settled' end
  if run.cancelled then return 'cancelled' end
  if run.parked or lane_paused then return 'paused' end
  if not is_offered(b.sus, index) then return 'outside' end
  if state == D and look_at(b, index).due_at > now then return 'not_due' end
  if b.hold.hard_at - now < TRANSACTION_MS_MAX then return 'hard_cap' end
  if open >= window then return 'window' end
  local wait = must_wait()
  return wait and 'throttled:' .. int(wait)
end

local granted, refused = {}, {}
for _, index in ipairs(REPORT.intents) do
  local reason = refusal(index)
  if reason then
    refused[#refused + 1] = index
    refused[#refused + 1] = reason
  else
    granted[#granted + 1] = index
    if b.st[index + 1] ~= I then
      b.fields['f' .. counter] = b.hold.fence
      change(b, index, 'grant', grant, counter)
      open = open + 1
      for _, m in ipairs(meters) do
        m.debt, m.in_intent, m.changed = m.debt + COST, m.in_intent + 1, m.changed or m.rate > 0
      end
    end
  end
end

if now - b.hold.progress_at <= TRANSACTION_MS_MAX then
  b.hold.expires_at = math.max(b.hold.expires_at, math.min(now + ttl, b.hold.hard_at))
end
commit(b)
for _, m in ipairs(meters) do write_pace(m) end
if #meters > 0 or counted > 0 then
  b.hold.counted = open
  count_flight(b.entry, open - counted, left)
end
write_hold(b)
write_run()
return { 'held', math.max(b.hold.expires_at - now, 0), granted, refused }
