-- share_limit: what every shard wants of one limit, and what each may use of it. See `embedded/model/quota.rs`.
-- KEYS     1 limits by lane and site
-- ARGV     1 lane or site, 2 turn, 3 rate per hour, 4 burst, 5 at once (0 of each: no limit), 6 ttl ms, then of each
--          shard: version|live|rate|burst|at once|waiting|in flight, or nothing when it did not answer
-- returns  turn, stale, awaited, then of each shard: version|lasts ms|rate|burst|at once|saved, or nothing to tell
-- refuses  another turn: nothing is changed

local CLOCK_GAP_MS, IN_FLIGHT_MS, TURN_MS, TURN_RECIPIENTS, IDLE_PART, MANY = 2000, 660000, 10000, 10, 32, 1000000000
local COST, RATE, BURST, AT_ONCE = 3600000, 1, 2, 3
local call = redis.call
local t = call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function int(n) return string.format('%.0f', n) end
local function floor_div(a, b) return (a - a % b) / b end

-- So many numbers, or an error.
local function numbers(text, count)
  local all = {}
  for n in string.gmatch(text, '[^|]+') do all[#all + 1] = string.match(n, '^%d+$') and tonumber(n) end
  if #all ~= count then error({ err = 'CORRUPT the division of ' .. ARGV[1] }) end
  return all
end

local limit, ttl, shards = { tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]) }, tonumber(ARGV[6]), #ARGV - 6

-- turn|version|at|busy until; of each shard version|expires at|given × 3|held × 3|in flight|saved.
local turn, version, at, busy_until, stakes = 0, 0, 0, 0, {}
local head, rest = string.match(call('HGET', KEYS[1], ARGV[1]) or '0|0|0|0;', '^([^;]*);(.*)$')
turn, version, at, busy_until = unpack(numbers(head or '', 4))
for text in string.gmatch(rest, '[^;]+') do
  local p = numbers(text, 10)
  stakes[#stakes + 1] = { version = p[1], expires_at = p[2], given = { p[3], p[4], p[5] }, held = { p[6], p[7], p[8] },
    in_flight = p[9], saved = p[10] }
end
if tonumber(ARGV[2]) ~= turn then return { turn, 1, 0 } end
turn = turn + 1
local stepped = now < at or now > at + CLOCK_GAP_MS
at = now

local function used(stake, kind)
  return kind == AT_ONCE and math.max(stake.held[kind], stake.in_flight) or stake.held[kind]
end

-- True: what it has is known, so it may be given something else.
local function hear(stake, demand)
  local has = demand.live and demand.has or { 0, 0, 0 }
  if demand.version >= stake.version then
    stake.version, stake.given, stake.held, stake.in_flight =
      demand.version, { unpack(has) }, { unpack(has) }, demand.in_flight
    return true
  end
  -- It may be told any moment, or have been told since it was looked at.
  for kind = 1, 3 do stake.held[kind] = math.max(stake.held[kind], stake.given[kind], has[kind]) end
  stake.in_flight = math.max(stake.in_flight, demand.in_flight)
  if stake.expires_at > now then return false end
  stake.given = { 0, 0, 0 }
  stake.held[RATE], stake.held[BURST] = has[RATE], has[BURST]
  return true
end

local function miss(stake)
  if stake.expires_at > now then return end
  stake.given = { 0, 0, 0 }
  stake.held[RATE], stake.held[BURST] = 0, 0
  if stake.expires_at + IN_FLIGHT_MS <= now then stake.held[AT_ONCE], stake.in_flight = 0, 0 end
end

-- Gives everybody what is wanted up to a level; of what cannot be divided one each to those that come first.
local function fill(all, wants)
  local order, given, left = {}, {}, all
  for n = 1, #wants do order[n], given[n] = n, 0 end
  table.sort(order, function(a, b) return wants[a] < wants[b] or (wants[a] == wants[b] and a < b) end)
  for n, one in ipairs(order) do
    local others = #wants - n + 1
    local level = floor_div(left, others)
    if wants[one] <= level then
      given[one] = wants[one]
      left = left - wants[one]
    else
      local above = {}
      for m = n, #order do above[#above + 1] = order[m] end
      table.sort(above)
      for rank, each in ipairs(above) do given[each] = level + (rank <= left % others and 1 or 0) end
      break
    end
  end
  return given
end

-- What each of those heard is to have of one kind: what it wants, and of the rest an even part, first of all who waits.
local settled = {}
local function targets(kind, free)
  local idle = limit[kind] >= 4 * shards and math.max(floor_div(limit[kind], IDLE_PART * shards), 1) or 0
  local wants, somebody_waits = {}, false
  for n, one in ipairs(settled) do
    local waiting = math.min(one.demand.waiting, MANY)
    local want = waiting
    if kind == RATE then want = waiting * 3600 elseif kind == AT_ONCE then want = waiting + one.demand.in_flight end
    wants[n] = one.may and math.min(math.max(want, idle), limit[kind]) or 0
    somebody_waits = somebody_waits or (one.may and one.demand.waiting > 0)
  end
  local all, left, spare = fill(free, wants), free, {}
  for n, one in ipairs(settled) do
    left = left - all[n]
    spare[n] = one.may and (one.demand.waiting > 0 or not somebody_waits) and limit[kind] or 0
  end
  for n, more in ipairs(fill(left, spare)) do all[n] = all[n] + more end
  return all
end

-- Sets what each of those heard is given: less at once, more only out of what nobody holds. True: somebody gets more later.
local function divide(kind)
  local others, is_lowered, awaited = 0, false, false
  for _, stake in ipairs(stakes) do
    if not stake.settled then others = others + used(stake, kind) end
  end
  local all = targets(kind, math.max(limit[kind] - others, 0))
  for n, one in ipairs(settled) do
    is_lowered = is_lowered or one.stake.given[kind] > all[n]
    one.stake.given[kind] = math.min(one.stake.given[kind], all[n])
  end
  for n, one in ipairs(settled) do
    local sum = 0
    for _, stake in ipairs(stakes) do sum = sum + used(stake, kind) end
    local stake = one.stake
    local most = used(stake, kind) + math.max(limit[kind] - sum, 0)
    stake.given[kind] = math.max(stake.given[kind], math.min(all[n], most))
    stake.held[kind] = math.max(stake.held[kind], stake.given[kind])
    awaited = awaited or (is_lowered and stake.given[kind] < all[n])
    one.may = kind ~= BURST or all[n] > 0
  end
  return awaited
end

local function quota(stake, lasts)
  return table.concat({ int(stake.version), int(lasts), int(stake.given[1]), int(stake.given[2]), int(stake.given[3]),
    int(stake.saved) }, '|')
end

local answer = { turn, 0, 0 }
local turn_ms = TURN_MS
if limit[RATE] > 0 then turn_ms = math.max(floor_div(TURN_RECIPIENTS * COST, limit[RATE]), TURN_MS) end
local first = floor_div(now, turn_ms) % shards
for n = 1, shards do
  local stake = stakes[n] or { version = 0, expires_at = 0, given = { 0, 0, 0 }, held = { 0, 0, 0 }, in_flight = 0,
    saved = 0 }
  stakes[n], answer[n + 3] = stake, ''
  if stepped then stake.expires_at = now + ttl end
  if ARGV[n + 6] == '' then
    miss(stake)
  else
    local p = numbers(ARGV[n + 6], 7)
    local demand = { version = p[1], live = p[2] == 1, has = { p[3], p[4], p[5] }, waiting = p[6], in_flight = p[7] }
    version = math.max(version, demand.version)
    stake.settled = hear(stake, demand)
    if stake.settled then
      -- In the order in which they get what cannot be divided.
      settled[#settled + 1] = { stake = stake, demand = demand, n = n, may = true, rank = (n - 1 + shards - first) % shards }
    else
      answer[n + 3] = quota(stake, stake.expires_at - now)
    end
  end
end
for n = #stakes, shards + 1, -1 do stakes[n] = nil end
table.sort(settled, function(a, b) return a.rank < b.rank end)
local function has_rate(stake)
  return stake.held[RATE] > 0 or stake.held[BURST] > 0
end
-- Recipients of the burst that were saved up while nobody had any of the rate.
local credit = limit[BURST]
if busy_until > 0 then credit = math.min(credit, floor_div(math.max(now - busy_until, 0) * limit[RATE], COST)) end
for _, stake in ipairs(stakes) do
  if has_rate(stake) then credit = 0 end
end
-- A rate without a burst lets nobody begin.
for _, kind in ipairs({ BURST, RATE, AT_ONCE }) do
  if divide(kind) then answer[3] = 1 end
end
for _, one in ipairs(settled) do
  local stake, demand = one.stake, one.demand
  local is_known, is_none = stake.version == demand.version and demand.live, true
  for kind = 1, 3 do
    is_known = is_known and demand.has[kind] == stake.given[kind]
    is_none = is_none and stake.given[kind] == 0
  end
  local is_fresh = not stepped and stake.expires_at > now + floor_div(ttl, 2)
  if not (is_known and is_fresh) and not (is_none and not demand.live) then
    version = version + 1
    stake.version, stake.expires_at, stake.saved = version, now + ttl, math.min(stake.given[BURST], credit)
    credit = credit - stake.saved
    answer[one.n + 3] = quota(stake, ttl)
  end
end

local busy
for _, stake in ipairs(stakes) do
  if has_rate(stake) then busy = math.max(busy or 0, stake.expires_at) end
end
-- A clock that went back: what ends later than it can is no longer so.
busy_until = math.min(busy or busy_until, now + ttl)
local text = { table.concat({ int(turn), int(version), int(at), int(busy_until) }, '|') }
for n, s in ipairs(stakes) do
  text[n + 1] = table.concat({ int(s.version), int(s.expires_at), int(s.given[1]), int(s.given[2]), int(s.given[3]),
    int(s.held[1]), int(s.held[2]), int(s.held[3]), int(s.in_flight),
    int(s.saved) }, '|')
end
call('HSET', KEYS[1], ARGV[1], table.concat(text, ';') .. ';')
return answer
