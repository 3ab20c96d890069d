-- reconcile: proves of some batches of one run that each stands in one place and, with the last of them, that the counters, the
-- turns and the split of the run are what they should be. Repairs what is not.
-- KEYS     the shard's, then: run, then of each batch its hash, its details and its payload
-- ARGV     1 step, 2 run id, 3 created at, 4 doubt grace ms, 5 first sequence, 6 number of batches, then the name of the
--          payload of each
-- returns  taken (1, or 0: by another call), batches looked at, then of each repair its kind and what it is about
-- refuses  a step that was made; it never makes somebody pending who has ended

local NAMES = { 'total', 'pending', 'accepted', 'rejected', 'exhausted', 'suppressed', 'cancelled', 'unknown', 'b_ready',
  'b_leased', 'b_delayed', 'b_dead', 'b_settled' }
local NO_PAYLOAD = 'the payload is missing'
local id, grace = ARGV[2], num(ARGV[4], 'doubt grace')
local first, number = num(ARGV[5], 'sequence'), num(ARGV[6], 'batches')
if not is_next_step(ARGV[1]) then return { 0, 0 } end
if not load_run(id, KEYS[OWN + 1]) then
  -- Forgotten meanwhile. If it is listed, it was lost: nothing can be said of its batches.
  if call('ZREM', K.runs, id) == 1 then repaired('stray', id) end
  end_step(ARGV[1], 'run', id, 'run_at', ARGV[3], 'after', '')
  return { 1, 0, unpack(repairs) }
end
local FIELDS = call('HMGET', KEYS[OWN + 1], 'sequence', 'complete', 'sites')
local sequence, complete, sites = num(FIELDS[1], 'the sequence'), FIELDS[2] == '1', FIELDS[3] or ''
number = math.max(math.min(number, sequence - first + 1), 0)
-- Taken by `put_back` as well, after the first write.
num(STAMP, 'the stamp')

-- What the counters say, and how often something moved.
local function counters()
  local fields = {}
  for n, name in ipairs(NAMES) do fields[n] = id .. '|' .. name end
  fields[#fields + 1] = id .. '|moves'
  local values = call('HMGET', K.count, unpack(fields))
  for n = 1, #fields do values[n] = values[n] or '0' end
  return values
end

-- ---------------------------------------------------------------------------------------------------
-- One batch: what is said of it, and where it should stand.

local function is_readable(b)
  -- Of the epoch that its doubts are of, see `suspect`.
  if not string.match(b.h.e or '1', '^%d%d?%d?%d?%d?%d?%d?%d?%d?$') then return false end
  for index = 0, b.count - 1 do
    if not pcall(look_at, b, index) then return false end
  end
  return true
end

-- Its entry as an index may have it: with the flag that the batch has, or with the other one.
local function entry_with(b, is_own)
  local e = {}
  for name, value in pairs(b.entry) do e[name] = value end
  e.expired = is_own and b.expired or (b.expired == '1' and '0' or '1')
  return e
end

local function look(n)
  local key, details, payload = KEYS[OWN + 2 + n * 3], KEYS[OWN + 3 + n * 3], KEYS[OWN + 4 + n * 3]
  local s = { id = id .. '.' .. int(first + n), ready = {}, delayed = {} }
  s.lease, s.holder = call('ZSCORE', K.lease, s.id), call('HGET', K.holder, s.id)
  s.dead, s.stamp = call('HGET', K.dead, s.id), call('ZSCORE', K.to_retire, s.id)
  if s.lease then
    local is_whole, hold = pcall(hold_of, s.id)
    s.hold = is_whole and hold or nil
  end
  s.is_held = s.hold ~= nil or (not s.lease and s.holder and string.match(s.holder, '^%d+%-%d+%-%x+|[^|]+|%d+|') ~= nil)
  local is_loaded, b, wrong = pcall(load_batch, s.id, key, details, function() return s.hold end)
  s.b, s.wrong = is_loaded and b or nil, is_loaded and wrong or 'unreadable'
  b = s.b
  if not b then
    -- Of the ready ones it is known by the beginning of its entry.
    for site in string.gmatch(sites, '[^,]+') do
      local from = run.lane .. '|' .. site .. '|' .. id .. '|' .. string.format('%016x', first + n)
      s.entry = s.entry or first_of(K.rdy, from)
    end
    return s
  end
  s.is_pending = string.find(b.h.s0 .. (b.h.s1 or ''), '[pid]') ~= nil
  -- Of others, an entry among those is found where these are proved.
  if s.is_pending then
    for flag = 1, 2 do
      local text = entry_text(entry_with(b, flag == 1))
      s.ready[flag] = call('ZSCORE', K.rdy, text)
      s.delayed[flag] = call('ZSCORE', K.dly, text)
    end
  end
  s.has_payload = not s.is_pending or b.h.payload ~= ARGV[7 + n] or call('EXISTS', payload) == 1
  s.is_to_stamp = not s.is_pending and not s.is_held and not s.dead
    and (b.retired and string.find(b.symbols_before, '[^.]') ~= nil or not b.retired and may_retire(b))
  return s
end

-- Where it should stand. 'again': put back by what its states say; 'aside': a person has to look.
local function place_wanted(s)
  local b = s.b
  if not b then return s.dead and not (s.lease or s.holder or s.entry) and 'dead' or 'aside' end
  if b.retired then return 'settled' end
  if s.is_held then return 'leased' end
  if s.dead then return 'dead' end
  if not s.is_pending then return 'settled' end
  if not s.has_payload then
    s.wrong = NO_PAYLOAD
    return 'aside'
  end
  if b.open == 0 and not s.lease and not s.holder then
    if s.ready[1] then return 'ready' end
    if s.delayed[1] then return 'delayed' end
  end
  s.wrong = 'unreadable'
  return is_readable(b) and 'again' or 'aside'
end

-- Where it stands.
local function standing(s)
  local places = {}
  if s.lease or s.holder then places[#places + 1] = s.lease and s.holder and 'leased' or s.lease and 'lease' or 'holder' end
  if s.dead then places[#places + 1] = 'dead' end
  if s.entry then places[#places + 1] = 'ready' end
  for flag = 1, 2 do
    if s.ready[flag] then places[#places + 1] = flag == 1 and 'ready' or 'ready as another' end
    if s.delayed[flag] then places[#places + 1] = flag == 1 and 'delayed' or 'delayed as another' end
  end
  return places
end

-- Nil when all is as it should be.
local function kind_of(s)
  local stands, want = #standing(s), s.want
  if want == 'aside' then return 'unreadable' end
  if stands > 1 then return 'twice' end
  if want == 'settled' then
    return (stands > 0 or (s.stamp ~= false) ~= (s.is_to_stamp == true)) and 'misplaced' or nil
  end
  if stands == 0 then return 'lost' end
  if want == 'again' or s.stamp or (want == 'leased' and not (s.lease and s.holder)) then return 'misplaced' end
  return nil
end

-- ---------------------------------------------------------------------------------------------------
-- Repair. Everything is read and known to be readable by now.

-- Takes it out of every place but `keep`.
local function leave(s, keep)
  for flag = 1, 2 do
    local is_kept = flag == 1 and keep
    if s.ready[flag] and is_kept ~= 'ready' then ready_remove(entry_with(s.b, flag == 1)) end
    if s.delayed[flag] and is_kept ~= 'delayed' then call('ZREM', K.dly, entry_text(entry_with(s.b, flag == 1))) end
  end
  if (s.lease or s.holder) and keep ~= 'leased' then
    call('ZREM', K.lease, s.id)
    call('HDEL', K.holder, s.id)
    local e = s.hold and entry_of(s.hold.entry)
    if e and s.hold.counted > 0 then count_flight(e, -s.hold.counted, true) end
  end
  local e = s.entry and entry_of(s.entry)
  if e then ready_remove(e) end
  if s.dead and keep ~= 'dead' then dead_remove(s.id) end
  if s.stamp and not s.is_to_stamp then call('ZREM', K.to_retire, s.id) end
end

local function set_aside(s)
  local stood = (s.ready[1] or s.entry) and 'ready' or s.delayed[1] and 'delayed' or s.hold and 'leased' or 'nowhere'
  leave(s, 'dead')
  dead_add(s.id, nil, s.wrong or 'unreadable', s.b and entry_text(s.b.entry) or s.hold and s.hold.entry or s.entry or '')
  if #standing(s) == 1 then count_place(id, stood, 'dead') end
  return 'dead'
end

local function put_again(s)
  local b = s.b
  leave(s, nil)
  -- Whoever had it may still be sending.
  if s.lease or s.holder then b.entry.expired = '1' end
  b.hold, b.fallen = nil, {}
  suspect(b)
  doubt_intents(b, grace)
  return (put_back(b, 'nowhere'))
end

local function repair(s)
  local want = s.want
  if want == 'aside' then return set_aside(s) end
  if want == 'again' then return put_again(s) end
  leave(s, want)
  if want == 'leased' and not s.lease then call('ZADD', K.lease, NOW, s.id) end
  if s.is_to_stamp and not s.stamp then
    STAMP = num(STAMP, 'the stamp') + 1
    call('HSET', K.shard, 'stamp', int(STAMP))
    call('ZADD', K.to_retire, int(STAMP), s.id)
  end
  return want
end

-- ---------------------------------------------------------------------------------------------------
-- Sums over the batches of the run, over all the steps that look at them.

local known, before = call('HMGET', K.round, 'run', 'sums', 'start'), counters()
local sums = { unreadable = 0 }
for _, name in ipairs(NAMES) do sums[name] = 0 end
-- What the counters were when the first of these steps began.
local start = table.concat(before, ' ')
if first > 1 then
  start = known[1] == id and known[3] or ''
  local n = 0
  for value in string.gmatch(known[2] or '', '%d+') do
    n = n + 1
    sums[NAMES[n] or 'unreadable'] = tonumber(value)
  end
end

local function add(s, place)
  sums['b_' .. place] = sums['b_' .. place] + 1
  if not s.b then
    sums.unreadable = sums.unreadable + 1
    return
  end
  sums.total = sums.total + s.b.count
  local states, number = string.char(unpack(s.b.st)), 0
  while states ~= '' do
    local name = COUNTER[string.byte(states)]
    states, number = string.gsub(states, string.sub(states, 1, 1), '')
    sums[name] = sums[name] + number
  end
end

local function prove_counters()
  local values, set = counters(), {}
  for n, name in ipairs(NAMES) do
    -- Who is in a batch that cannot be read is not known.
    local is_known = sums.unreadable == 0 or string.sub(name, 1, 2) == 'b_'
    if is_known and values[n] ~= int(sums[name]) then
      set[#set + 1] = id .. '|' .. name
      set[#set + 1] = int(sums[name])
    end
  end
  if #set == 0 then return end
  call('HSET', K.count, unpack(set))
  -- Otherwise written by whoever takes the last one out.
  if sums.pending == 0 and sums.total > 0 then call('HSETNX', K.count, id .. '|settled_at', NOW) end
  repaired('counter', id)
end

-- ---------------------------------------------------------------------------------------------------
-- The run itself.

local function prove_turns()
  if (call('SISMEMBER', K.parked, id) == 1) ~= run.parked then
    set_parked(id, run.lane, sites, run.parked)
    repaired('turn', id)
  end
  for site in string.gmatch(sites, '[^,]+') do
    local node = run.lane .. '|' .. site
    local should_be = not run.parked and first_of(K.rdy, node .. '|' .. id) ~= nil
    local is_choice = call('ZSCORE', K.turns, run_choice(run.lane, site, id, pass_of(node .. '|' .. id))) ~= false
    if should_be and not is_choice then
      activate(run.lane, site, id)
      repaired('turn', node .. '|' .. id)
    elseif is_choice and not should_be then
      deactivate(run.lane, site, id)
      repaired('turn', node .. '|' .. id)
    end
    if should_be and not call('ZSCORE', K.turns, site_choice(run.lane, site, pass_of(node)))
      and not call('ZSCORE', K.throttled, node) then
      activate_site(run.lane, site)
      repaired('turn', node)
    end
  end
end

local function prove_split()
  local due, due_parked = call('ZSCORE', K.splits, id), call('ZSCORE', K.splits_parked, id)
  local is_open = not (complete or run.cancelled or run.failed)
  if not is_open then
    if due or due_parked or call('HGET', K.split, id) then
      split_end(id)
      repaired('split', id)
    end
  elseif (due ~= false) == run.parked or (due_parked ~= false) ~= run.parked then
    call('ZREM', K.splits, id)
    call('ZREM', K.splits_parked, id)
    local at = due or due_parked
    call('ZADD', run.parked and K.splits_parked or K.splits, at or NOW, id)
    repaired('split', id)
  end
  local waiting = call('HMGET', K.count, id .. '|b_ready', id .. '|b_delayed')
  if run.cancelled and (tonumber(waiting[1] or '0') or 0) + (tonumber(waiting[2] or '0') or 0) > 0
    and not call('ZSCORE', K.to_cancel, id) then
    call('ZADD', K.to_cancel, 0, id)
    repaired('split', id)
  end
end

-- Nothing of it is left to be done, and all of it was proved: looked at again when something moves, and once in a while.
local function note_proved()
  local c = {}
  for n, value in ipairs(counters()) do c[NAMES[n] or 'moves'] = value end
  local is_over = (complete or run.cancelled) and c.pending == '0' and c.b_settled == int(sequence)
  if is_over and #repairs == 0 then call('HSET', K.count, id .. '|proved', c.moves) end
end

local seen = {}
for n = 0, number - 1 do
  seen[n + 1] = look(n)
  seen[n + 1].want = place_wanted(seen[n + 1])
  -- A site that the run does not know of is never looked for.
  local site = seen[n + 1].b and seen[n + 1].b.h.site
  if site and not string.find(',' .. sites .. ',', ',' .. site .. ',', 1, true) then
    sites = sites == '' and site or sites .. ',' .. site
  end
end
for _, s in ipairs(seen) do
  local kind, place = kind_of(s), s.want
  if kind then
    place = repair(s)
    local stood = table.concat(standing(s), ', ')
    repaired(kind, s.id .. ': ' .. (stood == '' and 'nowhere' or stood) .. (s.stamp and ', to retire' or '') .. '; now ' .. place)
  end
  for index in pairs(s.b and s.b.dead or {}) do
    if not call('HGET', K.dead, dead_field(s.id, index)) then
      dead_add(s.id, index, ENDS_WORKERS, '')
      repaired('lost', dead_field(s.id, index))
    end
  end
  add(s, place)
end
if #repairs > 0 then write_run() end
if sites ~= (FIELDS[3] or '') then
  call('HSET', KEYS[OWN + 1], 'sites', sites)
  repaired('turn', id)
end
local is_last = first + number > sequence
if is_last then
  -- Something moved while its batches were looked at: another round will do.
  local is_still = start == table.concat(before, ' ')
  if is_still then prove_counters() end
  prove_turns()
  prove_split()
  if is_still then note_proved() end
end
local texts = {}
for n, name in ipairs(NAMES) do texts[n] = int(sums[name]) end
texts[#texts + 1] = int(sums.unreadable)
end_step(ARGV[1], 'run', id, 'run_at', ARGV[3], 'after', is_last and '' or int(first + number - 1), 'sums',
  table.concat(texts, ' '), 'start', start)
if #repairs > 0 then wake_all() end
return { 1, number, unpack(repairs) }
