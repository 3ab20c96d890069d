-- Common to claim, checkpoint and the quotas; prepended after the prelude. Rates and concurrency of lanes and sites: how
-- much may begin now. All numbers are whole, see `embedded/model/pace.rs`.
--
-- Where there are several shards (limits then begin with '*'), the numbers are those of this shard's quota, which
-- take_quota keeps in `pace` beside the meters: `Q|L|lane` has version|until|per hour|burst|cap, `Q` the instant at which
-- a master looked last. A quota holds from then until its end; a clock that went back behind that instant voids it.

local COST, CAP_PAUSE_MS, QUOTA_PAUSE_MS = 3600000, 100, 500

-- The quota as it is stored, and whether it holds now.
local function quota_of(node, seen, text)
  local version, ends, rate, burst, cap = string.match(text or '0|0|0|0|0', '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
  if not version or not string.match(seen or '0', '^%d+$') then corrupt('the quota of ' .. node) end
  return { version = tonumber(version), ends = tonumber(ends), rate = tonumber(rate), burst = tonumber(burst),
    cap = tonumber(cap) }, seen and tonumber(seen) <= now and now < tonumber(ends)
end

local function debt_at(text, node)
  local at, debt = string.match(text or '0|0', '^(%d+)|(%d+)$')
  if not at then corrupt('the pace of ' .. node) end
  return tonumber(at), tonumber(debt)
end

-- What is used of a limit. `limits` is `;L|lane|per hour|burst|cap;S|site|…`, 0 for none. Nil: not limited.
local function meter_of(limits, kind, name)
  local node = kind .. '|' .. name
  local _, to = string.find(limits, ';' .. node .. '|', 1, true)
  if not to then return nil end
  local rate, burst, cap = string.match(limits, '^(%d+)|(%d+)|(%d+)', to + 1)
  if not rate then corrupt('the limit of ' .. node) end
  local m = { node = node, rate = tonumber(rate), burst = tonumber(burst), cap = tonumber(cap), debt = 0, in_intent = 0,
    changed = false, refused = 0, shared = string.sub(limits, 1, 1) == '*' }
  m.paced, m.capped = m.rate > 0, m.cap > 0
  local pace
  if m.shared then
    local known = call('HMGET', K.pace, node, 'Q', 'Q|' .. node)
    local quota, is_live = quota_of(node, known[2], known[3])
    pace = known[1]
    m.rate, m.burst, m.cap = is_live and quota.rate or 0, is_live and quota.burst or 0, is_live and quota.cap or 0
  elseif m.paced then
    pace = call('HGET', K.pace, node)
  end
  m.allowed = m.burst * COST
  if m.paced then
    local at, debt = debt_at(pace, node)
    -- A clock that went back pays nothing, and what is owed is paid from now on.
    m.changed = not m.shared and now < at
    m.debt = math.max(debt - math.max(now - at, 0) * m.rate, 0)
  end
  if m.capped then m.in_intent = num(call('HGET', K.flight, node) or '0', 'in intent') end
  return m
end

-- Nil: one more may begin. Otherwise how long until it may; by rate, until `waiting` of them may. A quota may grow any
-- moment, so that nobody is told to wait for long.
local function wait_of(m, waiting)
  local wait
  if m.capped and m.in_intent >= m.cap then wait = CAP_PAUSE_MS end
  if m.paced and m.debt + COST > m.allowed then
    local needed = m.debt + math.min(math.max(waiting, 1), math.max(m.burst, 1)) * COST - m.allowed
    wait = math.max(wait or 0, m.rate > 0 and floor_div(needed + m.rate - 1, m.rate) or CAP_PAUSE_MS)
  end
  return wait and m.shared and math.min(wait, QUOTA_PAUSE_MS) or wait
end

-- Recipients that may begin now.
local function room_of(m)
  local room = math.huge
  if m.paced then room = floor_div(math.max(m.allowed - m.debt, 0), COST) end
  if m.capped then room = math.min(room, math.max(m.cap - m.in_intent, 0)) end
  return room
end

local function write_pace(m)
  if m.changed then call('HSET', K.pace, m.node, NOW .. '|' .. int(m.debt)) end
  m.changed = false
end

-- Who was refused has use for more of the quota: counted over a while, see look_at_demand.
local function write_refused(m)
  local at, before = string.match(call('HGET', K.pace, 'W|' .. m.node) or '', '^(%d+)|(%d+)$')
  local goes_on = at and now >= tonumber(at) and now - tonumber(at) < QUOTA_PAUSE_MS
  call('HSET', K.pace, 'W|' .. m.node, goes_on and at .. '|' .. int(before + m.refused) or NOW .. '|' .. int(m.refused))
end
