-- Common to claim and checkpoint; prepended after the prelude. Rates and concurrency of lanes and sites: how much
-- may begin now. All numbers are whole, see `embedded/model/pace.rs`.

local COST, CAP_PAUSE_MS = 3600000, 100

-- What is used of a limit. `limits` is `;L|lane|per hour|burst|cap;S|site|…`, 0 for none. Nil: not limited.
local function meter_of(limits, kind, name)
  local node = kind .. '|' .. name
  local _, to = string.find(limits, ';' .. node .. '|', 1, true)
  if not to then return nil end
  local rate, burst, cap = string.match(limits, '^(%d+)|(%d+)|(%d+)', to + 1)
  if not rate then corrupt('the limit of ' .. node) end
  local m = { node = node, rate = tonumber(rate), burst = tonumber(burst), cap = tonumber(cap), debt = 0, in_intent = 0,
    changed = false }
  m.allowed = m.burst * COST
  if m.rate > 0 then
    local at, debt = string.match(call('HGET', K.pace, node) or '0|0', '^(%d+)|(%d+)$')
    if not at then corrupt('the pace of ' .. node) end
    -- A clock that went back pays nothing, and what is owed is paid from now on.
    m.changed = now < tonumber(at)
    m.debt = math.max(tonumber(debt) - math.max(now - tonumber(at), 0) * m.rate, 0)
  end
  if m.cap > 0 then m.in_intent = num(call('HGET', K.flight, node) or '0', 'in intent') end
  return m
end

-- Nil: one more may begin. Otherwise how long until it may; by rate, until `waiting` of them may.
local function wait_of(m, waiting)
  local wait
  if m.cap > 0 and m.in_intent >= m.cap then wait = CAP_PAUSE_MS end
  if m.rate > 0 and m.debt + COST > m.allowed then
    local needed = m.debt + math.min(math.max(waiting, 1), m.burst) * COST - m.allowed
    wait = math.max(wait or 0, floor_div(needed + m.rate - 1, m.rate))
  end
  return wait
end

-- Recipients that may begin now.
local function room_of(m)
  local room = math.huge
  if m.rate > 0 then room = floor_div(math.max(m.allowed - m.debt, 0), COST) end
  if m.cap > 0 then room = math.min(room, math.max(m.cap - m.in_intent, 0)) end
  return room
end

local function write_pace(m)
  if m.changed then call('HSET', K.pace, m.node, NOW .. '|' .. int(m.debt)) end
  m.changed = false
end
