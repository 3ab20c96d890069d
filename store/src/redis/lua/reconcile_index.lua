-- reconcile_index: takes out of an index what names no batch or run that there is, or names it wrongly. What then stands
-- nowhere is put back by reconcile, in the same round.
-- KEYS     the shard's, then of each member: the hash of its batch and its run (any two keys for one that names none)
-- ARGV     1 step, 2 index, 3 most leases of which those in intent are added up, 4 number of members, then two each: 1 when
--          it could be read (0), member; then fields of the round and their values
-- returns  taken (1, or 0: by another call), members looked at, then of each repair its kind and what it is about
-- refuses  a step that was made

if not is_next_step(ARGV[1]) then return { 0, 0 } end
local index, number = ARGV[2], num(ARGV[4], 'members')

-- Whether the run has had a batch with this id.
local function is_of_run(id, run_key)
  local sequence = tonumber(string.match(id, '%.(%d+)') or '')
  local last = tonumber(call('HGET', run_key, 'sequence') or '')
  return sequence and last and sequence >= 1 and sequence <= last
end

-- Whether an entry of the ready or delayed ones is what its batch says, and has something to wait for. What cannot be
-- read is left to reconcile, which sets it aside.
local function is_entry(text, batch_key, run_key)
  local e = entry_of(text)
  if not e or not is_of_run(batch_id(e), run_key) then return false end
  local h = call('HMGET', batch_key, 's0', 's1', 'n', 'site', 'payload', 'expired', 'h')
  if not h[1] then return not call('HGET', K.dead, batch_id(e)) end
  local is_same = call('HGET', run_key, 'lane') == e.lane and h[4] == e.site and h[5] == e.payload
    and tonumber(h[3] or '') == e.count and (h[6] == '1' and '1' or '0') == e.expired
  return is_same and not h[7] and string.find(h[1] .. (h[2] or ''), '[pid]') ~= nil
end

local function end_lease_of(id)
  local counted, entry = string.match(call('HGET', K.holder, id) or '', '^[^|]+|[^|]+|%d+|%d+|%d+|%d+|(%d+)o?|(.+)$')
  call('ZREM', K.lease, id)
  call('HDEL', K.holder, id)
  local e = entry and entry_of(entry)
  if e and tonumber(counted) > 0 then count_flight(e, -tonumber(counted), true) end
end

local function prove_turn(text)
  local lane, site, pass, id = string.match(text, '^R|([^|]+)|([^|]+)|(%x+)|(.+)$')
  if lane then
    local node = lane .. '|' .. site .. '|' .. id
    if text == run_choice(lane, site, id, pass_of(node)) and first_of(K.rdy, node)
      and call('SISMEMBER', K.parked, id) == 0 then return end
  else
    lane, pass, site = string.match(text, '^S|([^|]+)|(%x+)|(.+)$')
    if lane and text == site_choice(lane, site, pass_of(lane .. '|' .. site)) and first_of(K.turns, 'R|' .. lane .. '|' .. site) then
      return
    end
  end
  call('ZREM', K.turns, text)
  repaired('turn', text)
end

local function prove_depth(lane)
  local is = call('ZLEXCOUNT', K.rdy, '[' .. lane .. '|', '(' .. lane .. '}')
  if call('HGET', K.depth, lane) == int(is) then return end
  call('HSET', K.depth, lane, int(is))
  repaired('counter', lane)
end

-- One member that is still there.
local PROVE = {
  rdy = function(text, batch_key, run_key)
    if is_entry(text, batch_key, run_key) then return end
    local e = entry_of(text)
    if e then ready_remove(e) end
    call('ZREM', K.rdy, text)
    repaired('stray', text)
  end,
  dly = function(text, batch_key, run_key)
    if is_entry(text, batch_key, run_key) then return end
    call('ZREM', K.dly, text)
    repaired('stray', text)
  end,
  lease = function(id, _, run_key)
    if is_of_run(id, run_key) then return end
    end_lease_of(id)
    repaired('stray', id)
  end,
  to_retire = function(id, batch_key, run_key)
    -- A run that is forgotten goes before its batches.
    if is_of_run(id, run_key) or call('HLEN', batch_key) > 0 then return end
    call('ZREM', K.to_retire, id)
    repaired('stray', id)
  end,
  dead = function(field)
    local id, at = string.match(field, '^(.+%.%d+)/(%d+)$')
    local member = dead_member(id or field, at and tonumber(at))
    if call('ZSCORE', K.dead_order, member) then return end
    call('ZADD', K.dead_order, 0, member)
    repaired('misplaced', field)
  end,
  dead_order = function(member)
    local id, sequence, at = string.match(member, '^(.+)%.(%x+)/?(%d*)$')
    local field = id and dead_field(id .. '.' .. int(tonumber(sequence, 16)), at ~= '' and tonumber(at) or nil)
    if field and call('HGET', K.dead, field) then return end
    call('ZREM', K.dead_order, member)
    repaired('stray', member)
  end,
  to_cancel = function(id, _, run_key)
    if call('HGET', run_key, 'cancelled') == '1' then return end
    call('ZREM', K.to_cancel, id)
    repaired('stray', id)
  end,
  splits = function(id, _, run_key)
    if call('HGET', run_key, 'lane') then return end
    split_end(id)
    repaired('stray', id)
  end,
  turns = prove_turn,
  depth = prove_depth,
}
PROVE.holder = PROVE.lease
PROVE.splits_parked = PROVE.splits
PROVE.split = PROVE.splits

local IS_THERE = { holder = 'HGET', dead = 'HGET', split = 'HGET', depth = 'HGET' }

-- What is counted as in intent of lanes and sites is what the leases count.
local function prove_flight(most)
  if call('HLEN', K.holder) > most or call('HLEN', K.holder) ~= call('ZCARD', K.lease) then return end
  local is = {}
  local held = call('HGETALL', K.holder)
  for n = 2, #held, 2 do
    local counted, entry = string.match(held[n], '^[^|]+|[^|]+|%d+|%d+|%d+|%d+|(%d+)o?|(.+)$')
    local e = entry and entry_of(entry)
    if not e then return end
    for _, node in ipairs({ 'L|' .. e.lane, 'S|' .. e.site }) do is[node] = (is[node] or 0) + tonumber(counted) end
  end
  local flat = call('HGETALL', K.flight)
  for n = 1, #flat, 2 do is[flat[n]] = is[flat[n]] or 0 end
  for node, sum in pairs(is) do
    if (call('HGET', K.flight, node) or '0') ~= int(sum) then
      call('HSET', K.flight, node, int(sum))
      repaired('counter', node)
    end
  end
end

local most = num(ARGV[3], 'leases')
-- A run or batch whose key has another type is left to reconcile; reading it would fail half way.
local function is_hash(key)
  local answer = redis.pcall('HLEN', key)
  return type(answer) ~= 'table' or not answer.err
end

for n = 1, number do
  local is_named, member = ARGV[3 + n * 2] == '1', ARGV[4 + n * 2]
  local is_there = call(IS_THERE[index] or 'ZSCORE', K[index], member)
  local batch_key, run_key = KEYS[OWN + n * 2 - 1], KEYS[OWN + n * 2]
  if is_there and is_named then
    if is_hash(batch_key) and is_hash(run_key) then PROVE[index](member, batch_key, run_key) end
  elseif is_there then
    -- Not written by us.
    call(IS_THERE[index] and 'HDEL' or 'ZREM', K[index], member)
    repaired('stray', member)
  end
end
if index == 'flight' then prove_flight(most) end
if #repairs > 0 then write_run() end
end_step(ARGV[1], unpack(ARGV, 5 + number * 2))
if #repairs > 0 then wake_all() end
return { 1, number, unpack(repairs) }
