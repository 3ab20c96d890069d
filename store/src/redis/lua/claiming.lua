-- Common to claim; prepended after pace.lua. Whose turn it is is worked out on what was read, without writing; then what it
-- comes to is written, each index once.

local PROMOTE_MAX, LANE_STRIDE, SEEN_STEP_MS, FORGET_MAX = 100, 1000000, 1000, 100

-- Of this call: who asks, for how much of what; limits ('' for none); the position of the shard before it.
local worker, request, nonce, most, ttl, hard_cap, slots, forget, lanes, limits, limited
local fence_at, epoch

-- Passes that were read, and fields of those that moved; choices, and first batches of runs, by node; room by limited node,
-- and the meters of these; sites that leave the choices.
local passes, moved, choices, heads, rooms, meters, throttled

local function begin_claim()
  worker, request, nonce = ARGV[1], ARGV[2], ARGV[3]
  most, ttl, hard_cap = num(ARGV[4], 'batches'), num(ARGV[5], 'ttl'), num(ARGV[6], 'hard cap')
  slots, forget = num(ARGV[7], 'slots'), num(ARGV[8], 'forget')
  lanes = {}
  for n = 0, num(ARGV[9], 'lanes') - 1 do
    lanes[#lanes + 1] = { name = ARGV[10 + n * 2], taken = 0, weight = math.max(num(ARGV[11 + n * 2], 'weight'), 1) }
  end
  limits = ARGV[#ARGV]
  limited = limits ~= ''
  passes, moved, choices, heads, rooms, meters, throttled = {}, {}, {}, {}, {}, {}, {}
end

-- Whether it drains, and what is to be written of it.
local function look_at_worker()
  local known = call('HGET', K.worker, worker)
  local seen_at, seen_slots, drain = string.match(known or '', '^(%d+)|(%d+)|([01])$')
  local is_new = not seen_at or math.abs(now - tonumber(seen_at)) >= SEEN_STEP_MS or tonumber(seen_slots) ~= slots
  local old = call('ZRANGEBYSCORE', K.seen, '-inf', int(now - forget), 'LIMIT', '0', FORGET_MAX)
  return { drain = drain or '0', is_new = is_new, old = old }
end

local function write_worker(seen)
  if seen.is_new then
    call('HSET', K.worker, worker, NOW .. '|' .. int(slots) .. '|' .. seen.drain)
    call('ZADD', K.seen, NOW, worker)
  end
  for _, old in ipairs(seen.old) do
    call('ZREM', K.seen, old)
    call('HDEL', K.worker, old)
    call('HDEL', K.last_claim, old)
  end
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
  local due = call('ZRANGEBYSCORE', K.dly, '-inf', NOW, 'LIMIT', '0', PROMOTE_MAX)
  if #due > 0 and not limited then check_types() end
  for _, text in ipairs(due) do
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

-- ---------------------------------------------------------------------------------------------------
-- Passes and choices as they are after what was taken so far.

local function pass_at(field)
  passes[field] = passes[field] or pass_in(field)
  return passes[field]
end

local function move_pass(field, pass)
  passes[field], moved[field] = pass, true
end

-- The choices of a node by its prefix, `S|lane` or `R|lane|site`: the first of them, and more when all that were read have
-- been changed. One that was not changed comes before all that were not read.
local function read_choices(c)
  local from = c.last and '(' .. c.last or '[' .. c.prefix .. '|'
  local number = most + 1
  local texts = call('ZRANGEBYLEX', K.turns, from, '(' .. c.prefix .. '}', 'LIMIT', '0', int(number))
  for _, text in ipairs(texts) do
    local pass, name = string.match(text, '^|(%x+)|(.+)$', #c.prefix + 1)
    if not pass then corrupt('the choice ' .. text) end
    c[#c + 1] = { text = text, pass = tonumber(pass, 16), name = name }
    c.last = text
  end
  c.unchanged, c.is_whole = c.unchanged + #texts, #texts < number
end

local function first_choice(prefix)
  local c = choices[prefix]
  if not c then
    c = { prefix = prefix, unchanged = 0 }
    choices[prefix] = c
    read_choices(c)
  end
  while c.unchanged == 0 and not c.is_whole do read_choices(c) end
  local first
  for _, choice in ipairs(c) do
    if not choice.gone and (not first or choice.pass < first.pass or choice.pass == first.pass and choice.name < first.name) then
      first = choice
    end
  end
  return first, c
end

-- It has another pass from now on, or none.
local function change_choice(c, choice, pass)
  if not choice.changed then c.unchanged = c.unchanged - 1 end
  choice.changed, choice.pass, choice.gone = true, pass or choice.pass, not pass
end

-- What this claim may still lease of a limited lane or site, or false. A batch takes as much as it has recipients.
local function room_in(kind, name)
  local node = kind .. '|' .. name
  if rooms[node] == nil then
    local m = meter_of(limits, kind, name)
    meters[#meters + 1] = m
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
    local served = pass_at('V|')
    if pass_at('P|' .. lane.name) < served then move_pass('P|' .. lane.name, served) end
    return
  end
  local choice, c = first_choice('S|' .. lane.name)
  while choice do
    room = limited and room_in('S', choice.name)
    if not room or room.left > 0 then
      lane.choice, lane.choices, lane.pass = choice, c, pass_at('P|' .. lane.name)
      return
    end
    change_choice(c, choice, nil)
    throttled[#throttled + 1] = int(room.until_ms)
    throttled[#throttled + 1] = lane.name .. '|' .. choice.name
    choice = first_choice('S|' .. lane.name)
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

-- The first ready batches of a run, as many as this claim may take and one more, and the next of them.
local function heads_of(node)
  if not heads[node] then
    heads[node] = call('ZRANGEBYLEX', K.rdy, '[' .. node .. '|', '(' .. node .. '}', 'LIMIT', '0', int(most + 1))
    heads[node].next = 1
  end
  return heads[node]
end

-- Takes the batch whose turn it is in a lane and moves the passes on; nil when an index names none.
local function take(lane)
  local site = lane.choice
  local site_node = lane.name .. '|' .. site.name
  local run, runs = first_choice('R|' .. site_node)
  if not run then
    change_choice(lane.choices, site, nil)
    return nil
  end
  local run_node = site_node .. '|' .. run.name
  local ready = heads_of(run_node)
  local text = ready[ready.next]
  local sequence, count, expired = string.match(text or '', '^|(%x+)|(%d+)|%x+|([01])$', #run_node + 1)
  if sequence then
    count = tonumber(count)
    ready.next = ready.next + 1
    move_pass('V|', lane.pass)
    move_pass('V|' .. lane.name, site.pass)
    move_pass('V|' .. site_node, run.pass)
    move_pass('P|' .. lane.name, lane.pass + floor_div(LANE_STRIDE * count, lane.weight))
    move_pass('P|' .. site_node, site.pass + count)
    move_pass('P|' .. run_node, run.pass + count)
    lane.taken = lane.taken + 1
  end
  change_choice(runs, run, sequence and ready[ready.next] and run.pass + count)
  change_choice(lane.choices, site, first_choice('R|' .. site_node) and site.pass + (count or 0))
  return sequence and { lane = lane.name, site = site.name, run = run.name, count = count, text = text,
    id = run.name .. '.' .. int(tonumber(sequence, 16)), is_expired = expired == '1' }
end

-- ---------------------------------------------------------------------------------------------------
-- What is written, each index once.

local function write_turns()
  local gone, come, node = {}, {}, {}
  for prefix, c in pairs(choices) do
    for _, choice in ipairs(c) do
      if choice.changed then gone[#gone + 1] = choice.text end
      if choice.changed and not choice.gone then
        come[#come + 1] = '0'
        come[#come + 1] = prefix .. '|' .. string.format('%016x', choice.pass) .. '|' .. choice.name
      end
    end
  end
  for field in pairs(moved) do
    node[#node + 1] = field
    node[#node + 1] = int(passes[field])
  end
  if #gone > 0 then call('ZREM', K.turns, unpack(gone)) end
  if #come > 0 then call('ZADD', K.turns, unpack(come)) end
  if #node > 0 then call('HSET', K.node, unpack(node)) end
  if #throttled > 0 then call('ZADD', K.throttled, unpack(throttled)) end
  for _, m in ipairs(meters) do write_pace(m) end
end

local function write_leases(leased, answer)
  local hard_at = now + hard_cap
  local expires, hard = int(math.min(now + ttl, hard_at)), int(hard_at)
  local texts, leases, holders, last, of_run = {}, {}, {}, { request }, {}
  for n, e in ipairs(leased) do
    local fence = (epoch or '1') .. '-' .. int(fence_at + n) .. '-' .. nonce
    local entry = e.text
    if e.is_expired then
      add_count(e.run, 'taken_over', 1)
      entry = string.sub(entry, 1, -2) .. '0'
    end
    local at = n * 2 - 1
    texts[n], last[n + 1] = e.text, e.id .. ' ' .. fence
    leases[at], leases[at + 1] = expires, e.id
    holders[at], holders[at + 1] = e.id, fence .. '|' .. worker .. '|' .. hard .. '|' .. NOW .. '|0|0|0|' .. entry
    of_run[e.run] = (of_run[e.run] or 0) + 1
    for _, value in ipairs({ e.id, fence, entry, expires, hard }) do answer[#answer + 1] = value end
  end
  call('HSET', K.shard, 'fence', int(fence_at + #leased))
  call('ZREM', K.rdy, unpack(texts))
  call('ZADD', K.lease, unpack(leases))
  call('HSET', K.holder, unpack(holders))
  call('HSET', K.last_claim, worker, table.concat(last, ' '))
  for run, number in pairs(of_run) do
    add_count(run, 'b_ready', -number)
    add_count(run, 'b_leased', number)
    add_count(run, 'moves', number)
  end
  for _, lane in ipairs(lanes) do
    if lane.taken > 0 then bump(K.depth, lane.name, -lane.taken) end
  end
end

-- Whose turn it is, until there are enough.
local function take_turns()
  for _, lane in ipairs(lanes) do
    lane.paused = call('SISMEMBER', K.lanes, lane.name) == 1
    if not limited then look_at(lane) end
  end
  local leased, steps = {}, most * 2 + 16
  while #leased < most and steps > 0 do
    steps = steps - 1
    if limited then
      for _, each in ipairs(lanes) do look_at(each) end
    end
    local lane = next_lane()
    if not lane then break end
    local e = take(lane)
    if e then
      leased[#leased + 1] = e
      for _, node in ipairs({ 'L|' .. e.lane, 'S|' .. e.site }) do
        if rooms[node] then rooms[node].left = rooms[node].left - e.count end
      end
    end
    if not limited and #leased < most then look_at(lane) end
  end
  return leased
end
