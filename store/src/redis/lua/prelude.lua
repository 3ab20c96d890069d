-- Common to every script of a shard; prepended to each when it is loaded.
--
-- The scripts are functions of a library that the server keeps: what stands here outside of functions runs once, when
-- the library is loaded, and what differs from call to call is set by `begin`.
-- A script reads and checks everything first, changes Lua values, and writes at the end (`commit`): Lua
-- does not roll back, so nothing may fail after the first write. Time is read once. Numbers are printed
-- with `int`, never by tostring, which would write 1.7e+12.

-- Numbers of a call about leases, and of each of its reports, see report.lua.
local HEAD, REPORT_HEAD = '>I2I4I8I8', '>I8I8I2I2'

-- Keys of one run or batch follow the keys of the shard.
local OWN = 28

-- Of this call: its keys by name, whether it checks types itself (`check_type`), the time in ms and the same as text.
local K, CHECKS_ITSELF, now, NOW = {}, false, 0, '0'
local call
-- The server was compared; nil: not read yet.
local is_met

local function int(n)
  return string.format('%d', n)
end

local function corrupt(what)
  error({ err = 'CORRUPT ' .. what })
end

-- A write that meets the wrong type half way would leave the writes before it, so types come first: of all keys, or,
-- where every microsecond counts, of those that are written and were not read before (`CHECKS_ITSELF`).
local function check_type(command, key)
  local answer = redis.pcall(command, key)
  if type(answer) == 'table' and answer.err then corrupt('the type of the key ' .. key) end
end

local function check_types()
  for n, command in ipairs(TYPE_CHECKS) do check_type(command, KEYS[n]) end
end

-- Numbers of arguments and fields: nil or junk is an error, not a zero. ('nan' is a number to tonumber.)
local function num(text, what)
  local n = tonumber(text)
  -- Of a nan every comparison is false.
  if not n or not (n <= 9007199254740992 and n >= -9007199254740992) then corrupt(what .. ' is no number') end
  return n
end

-- Derived numbers: one that is damaged stays as it is, and shows when it is read. It must not leave a transition
-- half done, nor keep recipients from moving.
local function bump(key, field, by)
  return redis.pcall('HINCRBY', key, field, by)
end

local function floor_div(a, b)
  return (a - a % b) / b
end

local function fences_differ(a, b)
  if IGNORE_FENCES then return false end
  return a ~= b
end

-- The position of the shard, by which everybody who saw it can tell whether it went back: grows with whatever is
-- acknowledged. Not while it is not known what the server lacks: what is done meanwhile would make up for it.
local function grow(by)
  if is_met == nil then
    local f = call('HMGET', K.shard, 'met', 'server')
    is_met = f[1] == f[2]
  end
  if is_met then return bump(K.shard, 'sequence', int(by or 1)) end
end

-- Nothing is leased from a server that was not compared, nor while workers report after the shard went back.
local function is_stopped(met, confirmed, stop)
  return met ~= confirmed or (stop and (stop == '-1' or now < num(stop, 'stop')))
end

-- The version of what this shard was told last of a lane or a campaign; 0: nothing yet.
local function steered_at(subject)
  local known = call('HGET', K.steered, subject)
  return known and num(string.match(known, '^%d+') or known, 'what was steered') or 0
end

local function next_fence(nonce)
  local epoch = call('HGET', K.shard, 'epoch') or '1'
  return epoch .. '-' .. int(call('HINCRBY', K.shard, 'fence', 1)) .. '-' .. nonce
end

-- Its counter, and its epoch.
local function fence_counter(fence)
  local epoch, counter = string.match(fence, '^(%d+)%-(%d+)%-%x+$')
  if not counter then corrupt('the fence ' .. fence) end
  return counter, tonumber(epoch)
end

-- When it is tried again, or nil when the time to live is over: `backoff::retry_in_ms`.
local function retry_in(run, attempts, fraction, elapsed, after)
  local doublings = math.min(math.max(attempts - 1, 0), 30)
  local bound = math.min(num(run.base, 'retry base') * 2 ^ doublings, num(run.cap, 'retry cap'))
  local half = floor_div(bound, 2)
  local jitter = floor_div((bound - half) * math.min(fraction, 1000000), 1000000)
  local delay = math.max(half + jitter, after, 1)
  if elapsed + delay <= num(run.ttl, 'retry ttl') then return delay end
  return nil
end

-- A lease that goes on keeps in its batch what changes with each report (`kept`): counter of its fence, expiry, how far that is
-- ahead of the index of leases, hard deadline, when there was progress, progress, last sequence, recipients in intent,
-- whether there was an outcome. That of another fence is over.
local KEPT, KEPT_BYTES, KEPT_MAX = '>I6I6I4I6I6I6I6BB', 42, 281474976710655
-- The index of leases has the expiry, or an earlier one by less than this part of the ttl: who reclaims looks again.
local LEASE_STEPS = 4

local function kept_of(text, counter)
  if not text then return nil end
  if #text ~= KEPT_BYTES then corrupt('what a lease keeps') end
  local of, expires_at, ahead, hard_at, progress_at, progress, sequence, open, outcome = struct.unpack(KEPT, text)
  if int(of) ~= counter then return nil end
  return { counter = counter, expires_at = expires_at, noted_at = expires_at - ahead, hard_at = hard_at, progress_at = progress_at,
    progress = progress, sequence = sequence, open = open, outcome = outcome == 1 and 'o' or '' }
end

local function kept_text(h)
  return struct.pack(KEPT, h.counter, h.expires_at, h.expires_at - h.noted_at, h.hard_at, h.progress_at,
    h.progress, h.sequence, h.open, h.outcome == 'o' and 1 or 0)
end

-- Whether the index of leases is to be told of the expiry.
local function is_to_note(h, ttl)
  if h.expires_at - h.noted_at <= ttl / LEASE_STEPS then return false end
  h.noted_at = h.expires_at
  return true
end

-- Tells the other masters. A hint: a failure to publish must not fail the transition.
local function wake_all()
  redis.pcall('PUBLISH', WAKE_CHANNEL, '1')
end

-- ---------------------------------------------------------------------------------------------------
-- Where a batch stands: `lane|site|run|sequence|count|payload|expired`, the same text in every index.

local function entry_text(e)
  return e.lane .. '|' .. e.site .. '|' .. e.run .. '|' .. string.format('%016x', e.sequence) .. '|'
    .. e.count .. '|' .. e.payload .. '|' .. e.expired
end

local function entry_of(text)
  local lane, site, run, sequence, count, payload, expired =
    string.match(text, '^([^|]+)|([^|]+)|([^|]+)|(%x+)|(%d+)|(%x+)|([01])$')
  if not lane then return nil end
  return { lane = lane, site = site, run = run, sequence = tonumber(sequence, 16), count = tonumber(count),
    payload = payload, expired = expired }
end

local function batch_id(e)
  return e.run .. '.' .. int(e.sequence)
end

-- ---------------------------------------------------------------------------------------------------
-- Dead letters: batches, and recipients (with an index). `dead` has when and why, `dead_order` lists them.

local function dead_field(id, index)
  return index and id .. '/' .. int(index) or id
end

local function dead_member(id, index)
  local run_id, sequence = string.match(id, '^(.+)%.(%d+)$')
  if not run_id then corrupt('the batch id ' .. id) end
  return run_id .. '.' .. string.format('%016x', tonumber(sequence)) .. (index and string.format('/%02d', index) or '')
end

local function dead_add(id, index, reason, entry)
  call('HSET', K.dead, dead_field(id, index), NOW .. '|' .. reason .. '|' .. entry)
  call('ZADD', K.dead_order, 0, dead_member(id, index))
end

local function dead_remove(id, index)
  call('HDEL', K.dead, dead_field(id, index))
  call('ZREM', K.dead_order, dead_member(id, index))
end

-- ---------------------------------------------------------------------------------------------------
-- Counters of a run, gathered and written once. (`bump` each: cheaper than to read, add and write several at once.)

local counts = {}
-- Runs of which somebody settled.
local settled_now = {}

local function add_count(run, name, by)
  local field = run .. '|' .. name
  counts[field] = (counts[field] or 0) + by
end

-- A batch goes from one place to another. `moves` grows with that, and when somebody comes back from exhausted or unknown:
-- all else only ever moves the counters on, so what moved in between shows even when they are as they were. From nowhere:
-- it was lost, and it is not known as what it is counted.
local function count_place(run, from, to)
  if from == 'nowhere' then return end
  add_count(run, 'b_' .. from, -1)
  add_count(run, 'b_' .. to, 1)
  add_count(run, 'moves', 1)
end

-- A counter that is damaged stays as it is, see `bump`. When somebody settled last is of use once nobody is pending.
local function write_counts()
  local is = {}
  for field, by in pairs(counts) do
    if by ~= 0 then is[field] = bump(K.count, field, int(by)) end
  end
  for run in pairs(settled_now) do
    local pending = is[run .. '|pending'] or call('HGET', K.count, run .. '|pending')
    if pending == 0 or pending == '0' then call('HSET', K.count, run .. '|settled_at', NOW) end
  end
  counts, settled_now = {}, {}
end

-- ---------------------------------------------------------------------------------------------------
-- Turns: lane, then site, then run, lowest pass first. `turns` holds the choices (nodes with a ready
-- batch of a run that is not parked), `node` the passes (P|…) and the pass served last among the
-- children of a node (V|…).

-- Passes only make turns fair: one that is damaged begins anew.
local function pass_in(field)
  local pass = tonumber(call('HGET', K.node, field) or '0')
  return pass and pass >= 0 and pass <= 9007199254740992 and pass or 0
end

local function pass_of(node)
  return pass_in('P|' .. node)
end

local function served_of(node)
  return pass_in('V|' .. node)
end

local function site_choice(lane, site, pass)
  return 'S|' .. lane .. '|' .. string.format('%016x', pass) .. '|' .. site
end

local function run_choice(lane, site, run, pass)
  return 'R|' .. lane .. '|' .. site .. '|' .. string.format('%016x', pass) .. '|' .. run
end

local function first_of(key, prefix)
  return call('ZRANGEBYLEX', key, '[' .. prefix .. '|', '(' .. prefix .. '}', 'LIMIT', '0', '1')[1]
end

local function activate_site(lane, site)
  local lane_was_idle = not first_of(K.turns, 'S|' .. lane)
  local site_pass = pass_of(lane .. '|' .. site)
  local site_raised = math.max(site_pass, served_of(lane))
  if site_raised ~= site_pass then call('HSET', K.node, 'P|' .. lane .. '|' .. site, int(site_raised)) end
  call('ZADD', K.turns, 0, site_choice(lane, site, site_raised))
  if not lane_was_idle then return end
  local lane_pass = pass_of(lane)
  local lane_raised = math.max(lane_pass, served_of(''))
  if lane_raised ~= lane_pass then call('HSET', K.node, 'P|' .. lane, int(lane_raised)) end
end

local function activate(lane, site, run)
  local run_node = lane .. '|' .. site .. '|' .. run
  local pass = pass_of(run_node)
  if call('ZSCORE', K.turns, run_choice(lane, site, run, pass)) then return end
  local site_was_idle = not first_of(K.turns, 'R|' .. lane .. '|' .. site)
  local raised = math.max(pass, served_of(lane .. '|' .. site))
  if raised ~= pass then call('HSET', K.node, 'P|' .. run_node, int(raised)) end
  call('ZADD', K.turns, 0, run_choice(lane, site, run, raised))
  if site_was_idle then activate_site(lane, site) end
end

local function deactivate(lane, site, run)
  call('ZREM', K.turns, run_choice(lane, site, run, pass_of(lane .. '|' .. site .. '|' .. run)))
  if not first_of(K.turns, 'R|' .. lane .. '|' .. site) then
    call('ZREM', K.turns, site_choice(lane, site, pass_of(lane .. '|' .. site)))
  end
end

-- Sites that had no room (lane|site → until when) and whose time is over are among the choices again.
local function unpark(limit)
  for _, node in ipairs(call('ZRANGEBYSCORE', K.throttled, '-inf', NOW, 'LIMIT', '0', limit)) do
    call('ZREM', K.throttled, node)
    local lane, site = string.match(node, '^([^|]+)|([^|]+)$')
    if lane and first_of(K.turns, 'R|' .. node)
      and not call('ZSCORE', K.turns, site_choice(lane, site, pass_of(node))) then
      activate_site(lane, site)
    end
  end
end

-- The number in intent of the entry's lane and site, as far as it is counted. `left`: somebody left.
local function count_flight(e, by, left)
  if by ~= 0 then
    call('HINCRBY', K.flight, 'L|' .. e.lane, int(by))
    call('HINCRBY', K.flight, 'S|' .. e.site, int(by))
  end
  if left then call('ZADD', K.throttled, 'XX', 0, e.lane .. '|' .. e.site) end
end

local function ready_add(e, parked)
  if call('ZADD', K.rdy, 0, entry_text(e)) == 1 then bump(K.depth, e.lane, 1) end
  if not parked then activate(e.lane, e.site, e.run) end
end

local function ready_remove(e)
  if call('ZREM', K.rdy, entry_text(e)) == 1 then bump(K.depth, e.lane, -1) end
  if not first_of(K.rdy, e.lane .. '|' .. e.site .. '|' .. e.run) then deactivate(e.lane, e.site, e.run) end
end

-- Takes a run in or out of the turns at all its sites, and its split with it.
local function set_parked(run, lane, sites, parked)
  if parked then call('SADD', K.parked, run) else call('SREM', K.parked, run) end
  for site in string.gmatch(sites, '[^,]+') do
    if parked then
      deactivate(lane, site, run)
    elseif first_of(K.rdy, lane .. '|' .. site .. '|' .. run) then
      activate(lane, site, run)
    end
  end
  local from = parked and K.splits or K.splits_parked
  local due = call('ZSCORE', from, run)
  if due then
    call('ZREM', from, run)
    call('ZADD', parked and K.splits_parked or K.splits, due, run)
  end
end

-- ---------------------------------------------------------------------------------------------------
-- The split of a run: when it is due, and who holds it (`fence request`).

local function split_set_due(run, parked, due)
  call('ZADD', parked and K.splits_parked or K.splits, int(due), run)
end

local function split_forget_holder(run)
  local hold = call('HGET', K.split, run)
  if hold then
    call('HDEL', K.split_request, string.match(hold, ' (.+)$') or '')
    call('HDEL', K.split, run)
  end
end

local function split_end(run)
  call('ZREM', K.splits, run)
  call('ZREM', K.splits_parked, run)
  split_forget_holder(run)
end

-- ---------------------------------------------------------------------------------------------------

local function name_keys()
  K = {
    shard = KEYS[1], rdy = KEYS[2], dly = KEYS[3], lease = KEYS[4], holder = KEYS[5], turns = KEYS[6],
    node = KEYS[7], count = KEYS[8], lanes = KEYS[9], parked = KEYS[10], splits = KEYS[11],
    splits_parked = KEYS[12], split = KEYS[13], split_request = KEYS[14], runs = KEYS[15],
    to_cancel = KEYS[16], worker = KEYS[17], seen = KEYS[18], last_claim = KEYS[19], dead = KEYS[20],
    depth = KEYS[21], to_retire = KEYS[22], flight = KEYS[23], pace = KEYS[24], throttled = KEYS[25],
    steered = KEYS[26], dead_order = KEYS[27], round = KEYS[28],
  }
end

-- Before everything else of a call.
local function begin(checks_itself)
  call, CHECKS_ITSELF, counts, settled_now, is_met = redis.call, checks_itself, {}, {}, nil
  -- The keys of a shard are always the same: the first tells which shard it is.
  if K.shard ~= KEYS[1] then name_keys() end
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  NOW = int(now)
  if not checks_itself then check_types() end
end
