-- claim: due batches become ready, and the worker gets those whose turn it is.
-- KEYS     the shard's
-- ARGV     1 worker, 2 request, 3 nonce, 4 batches max, 5 ttl ms, 6 hard cap ms, 7 slots, 8 forget workers after ms,
--          9 number of lanes, then lane and weight of each, then limits, see pace.lua
-- returns  now, drain (0 or 1), then of each lease: batch, fence, entry, expires at, hard deadline
-- refuses  a draining worker, or a shard that was not compared or went back (nothing new); a lane or site without room is passed over

local HISTORY_BACKLOG_BATCHES_MAX = 10000
local PROMOTE_MAX, UNPARK_MAX, LANE_STRIDE, SEEN_STEP_MS, FORGET_MAX = 100, 100, 1000000, 1000, 100
local worker, request, nonce = ARGV[1], ARGV[2], ARGV[3]
local most, ttl, hard_cap = num(ARGV[4], 'batches'), num(ARGV[5], 'ttl'), num(ARGV[6], 'hard cap')
local slots, forget = num(ARGV[7], 'slots'), num(ARGV[8], 'forget')
local lanes = {}
for n = 0, num(ARGV[9], 'lanes') - 1 do
  lanes[#lanes + 1] = { name = ARGV[10 + n * 2], taken = 0, weight = math.max(num(ARGV[11 + n * 2], 'weight'), 1) }
end

local limits = ARGV[#ARGV]
local limited = limits ~= ''
-- Without limits half of the keys are never met.
if limited then
  check_types()
else
  check_type('HLEN', K.count)
  check_type('HLEN', K.depth)
  check_type('HLEN', K.node)
  check_type('HLEN', K.holder)
  check_type('HLEN', K.last_claim)
  check_type('HLEN', K.dead)
  check_type('SCARD', K.lanes)
  check_type('SCARD', K.parked)
  check_type('ZCARD', K.rdy)
  check_type('ZCARD', K.dly)
  check_type('ZCARD', K.lease)
  check_type('ZCARD', K.turns)
  check_type('ZCARD', K.seen)
  check_type('ZCARD', K.to_retire)
end
local fence_at, met, confirmed, stop = unpack(call('HMGET', K.shard, 'fence', 'met', 'server', 'stop'))
if not string.match(fence_at or '0', '^%d+$') then corrupt('the counter of fences') end
local stopped = is_stopped(met, confirmed, stop)
is_met = met == confirmed

local function see_worker()
  local known = call('HGET', K.worker, worker)
  local seen_at, seen_slots, drain = string.match(known or '', '^(%d+)|(%d+)|([01])$')
  if not seen_at or math.abs(now - tonumber(seen_at)) >= SEEN_STEP_MS or tonumber(seen_slots) ~= slots then
    call('HSET', K.worker, worker, int(now) .. '|' .. int(slots) .. '|' .. (drain or '0'))
    call('ZADD', K.seen, int(now), worker)
  end
  for _, old in ipairs(call('ZRANGEBYSCORE', K.seen, '-inf', int(now - forget), 'LIMIT', '0', FORGET_MAX)) do
    call('ZREM', K.seen, old)
    call('HDEL', K.worker, old)
    call('HDEL', K.last_claim, old)
  end
  return drain == '1'
end

-- The leases of the worker's last claim that it still holds, if this is a repeat of it.
local function same_claim(answer)
  local last = call('HGET', K.last_claim, worker)
  if not last then return false end
  local last_request, rest = string.match(last, '^(%S+)(.*)$')
  if last_request ~= request then return false end
  for id, fence in string.gmatch(rest, '(%S+) (%S+)') do
    local expires = call('ZSCORE', K.lease, id)
    local held, _, hard, entry = string.match(call('HGET', K.holder, id) or '',
      '^([^|]+)|([^|]+)|(%d+)|%d+|%d+|%d+|%d+o?|(.+)$')
    if expires and held == fence then
      for _, value in ipairs({ id, fence, entry, expires, hard }) do answer[#answer + 1] = value end
    end
  end
  return true
end

local function promote()
  for _, text in ipairs(call('ZRANGEBYSCORE', K.dly, '-inf', int(now), 'LIMIT', '0', PROMOTE_MAX)) do
    local e = entry_of(text)
    call('ZREM', K.dly, text)
    if e then
      ready_add(e, call('SISMEMBER', K.parked, e.run) == 1)
      count_place(e.run, 'delayed', 'ready')
    else
      -- Not written by us. It must not keep everybody from claiming.
      call('HSET', K.dead, text, NOW .. '|no entry|' .. text)
    end
  end
end

-- What this claim may still lease of a limited lane or site, or false. A batch takes as much as it has recipients.
local rooms = {}
local function room_in(kind, name)
  local node = kind .. '|' .. name
  if rooms[node] == nil then
    local m = meter_of(limits, kind, name)
    if m then write_pace(m) end
    rooms[node] = m and { left = room_of(m), until_ms = now + (wait_of(m, 1) or CAP_PAUSE_MS) } or false
  end
  return rooms[node]
end

-- The choice of a lane: its pass, and the site whose turn it is. Without room a lane saves up no turns, and a site
-- leaves the choices for its time.
local function look_at(lane)
  lane.choice = nil
  if lane.paused then return end
  local room = limited and room_in('L', lane.name)
  if room and room.left <= 0 then
    local served = served_of('')
    if pass_of(lane.name) < served then call('HSET', K.node, 'P|' .. lane.name, int(served)) end
    return
  end
  local text = first_of(K.turns, 'S|' .. lane.name)
  while text do
    local pass, site = string.match(text, '^S|[^|]+|(%x+)|(.+)$')
    room = limited and room_in('S', site)
    if not room or room.left > 0 then
      lane.choice = { text = text, pass = tonumber(pass, 16), site = site }
      lane.pass = pass_of(lane.name)
      return
    end
    call('ZREM', K.turns, text)
    call('ZADD', K.throttled, int(room.until_ms), lane.name .. '|' .. site)
    text = first_of(K.turns, 'S|' .. lane.name)
  end
end

local function next_lane()
  local best
  for _, lane in ipairs(lanes) do
    if lane.choice and (not best or lane.pass < best.pass or (lane.pass == best.pass and lane.name < best.name)) then
      best = lane
    end
  end
  return best
end

-- Takes the batch whose turn it is in a lane and moves the passes on; nil when an index names none.
local function take(lane)
  local site = lane.choice.site
  local site_node = lane.name .. '|' .. site
  local run_text = first_of(K.turns, 'R|' .. site_node)
  if not run_text then
    call('ZREM', K.turns, lane.choice.text)
    return nil
  end
  local pass_hex, run = string.match(run_text, '^R|[^|]+|[^|]+|(%x+)|(.+)$')
  local run_pass, run_node = tonumber(pass_hex, 16), site_node .. '|' .. run
  local prefix = run_node
  local heads = call('ZRANGEBYLEX', K.rdy, '[' .. prefix .. '|', '(' .. prefix .. '}', 'LIMIT', '0', '2')
  local e = heads[1] and entry_of(heads[1])
  call('ZREM', K.turns, run_text, lane.choice.text)
  if e then
    call('ZREM', K.rdy, heads[1])
    lane.taken = lane.taken + 1
    call('HSET', K.node, 'V|', int(lane.pass), 'V|' .. lane.name, int(lane.choice.pass), 'V|' .. site_node, int(run_pass),
      'P|' .. lane.name, int(lane.pass + floor_div(LANE_STRIDE * e.count, lane.weight)),
      'P|' .. site_node, int(lane.choice.pass + e.count), 'P|' .. run_node, int(run_pass + e.count))
    if heads[2] then call('ZADD', K.turns, 0, run_choice(lane.name, site, run, run_pass + e.count)) end
  end
  if heads[2] or first_of(K.turns, 'R|' .. site_node) then
    call('ZADD', K.turns, 0, site_choice(lane.name, site, lane.choice.pass + (e and e.count or 0)))
  end
  return e
end

local function lease(e)
  local id, fence = batch_id(e), next_fence(nonce)
  local hard_at = now + hard_cap
  local expires = math.min(now + ttl, hard_at)
  if e.expired == '1' then
    add_count(e.run, 'taken_over', 1)
    e.expired = '0'
  end
  local text = entry_text(e)
  call('ZADD', K.lease, int(expires), id)
  call('HSET', K.holder, id, fence .. '|' .. worker .. '|' .. int(hard_at) .. '|' .. int(now) .. '|0|0|0|' .. text)
  count_place(e.run, 'ready', 'leased')
  return { id, fence, text, int(expires), int(hard_at) }
end

local draining = see_worker()
local answer = { now, draining and 1 or 0 }
if stopped or same_claim(answer) or draining then return answer end
promote()
-- What is settled is not written to history: nothing new is begun until it is.
if call('ZCARD', K.to_retire) >= HISTORY_BACKLOG_BATCHES_MAX then
  write_counts()
  return answer
end
if limited then unpark(UNPARK_MAX) end
for _, lane in ipairs(lanes) do
  lane.paused = call('SISMEMBER', K.lanes, lane.name) == 1
  if not limited then look_at(lane) end
end
local taken, steps = { request }, most * 2 + 16
while #taken - 1 < most and steps > 0 do
  steps = steps - 1
  if limited then
    for _, each in ipairs(lanes) do look_at(each) end
  end
  local lane = next_lane()
  if not lane then break end
  local e = take(lane)
  if e then
    local leased = lease(e)
    taken[#taken + 1] = leased[1] .. ' ' .. leased[2]
    for _, value in ipairs(leased) do answer[#answer + 1] = value end
    for _, node in ipairs({ 'L|' .. e.lane, 'S|' .. e.site }) do
      if rooms[node] then rooms[node].left = rooms[node].left - e.count end
    end
  end
  if not limited then look_at(lane) end
end
for _, lane in ipairs(lanes) do
  if lane.taken > 0 then bump(K.depth, lane.name, -lane.taken) end
end
if #taken > 1 then
  call('HSET', K.last_claim, worker, table.concat(taken, ' '))
  grow()
end
write_counts()
return answer
