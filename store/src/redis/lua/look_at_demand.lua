-- look_at_demand: the first part of moving quotas. What this shard has of each limit, and has use for.
-- KEYS     the shard's
-- ARGV     lanes and sites: L|lane, S|site
-- returns  now, then of each: version, live (0 or 1), rate, burst, at once, waiting, in flight
-- refuses  nothing; after the clock went back no quota holds

local SEEN_STEP_MS, REFUSED_MS, MANY = 100, 1500, 1000000000
local RUNS_LOOKED_AT, BATCHES_LOOKED_AT = 16, 8

-- Lanes that have something ready and are not paused.
local lanes = {}
local depths = call('HGETALL', K.depth)
for n = 1, #depths, 2 do
  if (tonumber(depths[n + 1]) or 0) > 0 and call('SISMEMBER', K.lanes, depths[n]) == 0 then
    lanes[#lanes + 1] = depths[n]
  end
end

-- Recipients of ready batches whose run is not parked.
local function ready_in(prefix)
  local runs = call('ZRANGEBYLEX', K.turns, '[' .. prefix .. '|', '(' .. prefix .. '}', 'LIMIT', '0', RUNS_LOOKED_AT)
  if #runs == RUNS_LOOKED_AT then return MANY end
  local sum = 0
  for _, text in ipairs(runs) do
    local lane, site, run = string.match(text, '^R|([^|]+)|([^|]+)|%x+|(.+)$')
    local node = (lane or '') .. '|' .. (site or '') .. '|' .. (run or '')
    local batches = call('ZRANGEBYLEX', K.rdy, '[' .. node .. '|', '(' .. node .. '}', 'LIMIT', '0', BATCHES_LOOKED_AT)
    if #batches == BATCHES_LOOKED_AT then return MANY end
    for _, batch in ipairs(batches) do
      local e = entry_of(batch)
      sum = sum + (e and e.count or 0)
    end
  end
  return sum
end

local function waiting_for(node)
  local kind, name = string.match(node, '^([LS])|([^|]+)$')
  if not kind then corrupt('the name of a limit') end
  local waiting = 0
  for _, lane in ipairs(lanes) do
    if kind == 'S' then
      waiting = waiting + ready_in('R|' .. lane .. '|' .. name)
    elseif lane == name then
      waiting = waiting + ready_in('R|' .. lane)
    end
  end
  -- Holders of leases that were refused.
  local at, refused = string.match(call('HGET', K.pace, 'W|' .. node) or '', '^(%d+)|(%d+)$')
  if at and math.abs(now - tonumber(at)) <= REFUSED_MS then waiting = waiting + tonumber(refused) end
  return int(math.min(waiting, MANY))
end

local seen = call('HGET', K.pace, 'Q')
quota_of('Q', seen)
local went_back = seen and now < tonumber(seen)
local answer = { now }
for _, node in ipairs(ARGV) do
  local q, is_live = quota_of(node, seen, call('HGET', K.pace, 'Q|' .. node))
  local flight = math.max(num(call('HGET', K.flight, node) or '0', 'in intent'), 0)
  for _, value in ipairs({ int(q.version), is_live and 1 or 0, int(q.rate), int(q.burst), int(q.cap), waiting_for(node),
    int(flight) }) do
    answer[#answer + 1] = value
  end
end
-- Of all, also of those that this master does not know of.
if went_back then
  local all, void = call('HGETALL', K.pace), {}
  for n = 1, #all, 2 do
    local node = string.match(all[n], '^Q|(.+)$')
    if node then
      void[#void + 1] = all[n]
      void[#void + 1] = int(quota_of(node, nil, all[n + 1]).version) .. '|0|0|0|0'
    end
  end
  call('HSET', K.pace, 'Q', NOW, unpack(void))
elseif not seen or now - tonumber(seen) >= SEEN_STEP_MS then
  call('HSET', K.pace, 'Q', NOW)
end
return answer
