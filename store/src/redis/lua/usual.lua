-- The usual way of checkpoint and finish; prepended after the prelude to both. It declares few of the shard's keys, takes
-- few steps, and carries out a report to which nothing special applies exactly as report.lua and what follows it would.
-- Whatever else it meets, it changes nothing and answers 'more': the whole script is called instead.
--
-- KEYS  the shard's that the script names, then of each report: batch, its run, and if it has a reply text the details of
--       the batch
-- ARGV  as report.lua, no limits
-- returns epoch and sequence of the shard after it; then the answer to each report, or 'more' for the first that is not
--         usual, and none after it: reports are carried out in their order

local MORE = 'more'
local P, I = 112, 105
local BECOMES = { a = 97, d = 100, r = 114 }
local GRANTED, UNTOUCHED, SYMBOL_FIRST, SYMBOLS = 33, 46, 34, 92
local PIECE = 50
local TRANSACTION_MS_MAX = 660000
-- Of the language; it is not there yet when the library is loaded.
local byte, char, sub, find, rep

-- Of this call: what was read of the shard, and whether any lane is paused; where the next report and its keys are.
local BASE, STAMP, FRACTION, SUPPRESSED, lanes_paused
local AT, KEY_AT
-- Of the report at hand: sequence, progress, reply texts, groups, key of the details.
local sequence, progress, texts, groups, details
-- The run at hand, how many of its recipients and batches ended, and how many reports were carried out.
local RUN_KEY, RUN, POLICY
local ended, carried_out
-- Batches whose lease is over, and the same with their stamps.
local over, stamped

-- Writes the counters of the run at hand.
local function count_ended()
  local accepted, rejected, batches = ended.a, ended.r, ended.batches
  if accepted > 0 then bump(K.count, RUN .. '|accepted', int(accepted)) end
  if rejected > 0 then bump(K.count, RUN .. '|rejected', int(rejected)) end
  if accepted + rejected > 0 and bump(K.count, RUN .. '|pending', int(-accepted - rejected)) == 0 then
    call('HSET', K.count, RUN .. '|settled_at', NOW)
  end
  if batches > 0 then
    bump(K.count, RUN .. '|b_leased', int(-batches))
    bump(K.count, RUN .. '|b_settled', int(batches))
    bump(K.count, RUN .. '|moves', int(batches))
  end
  ended.a, ended.r, ended.batches = 0, 0, 0
end

-- False: something is special about the run. (Nothing of one that is forgotten is leased.)
local function take_run(id, key)
  if RUN_KEY == key then return true end
  local run = string.match(id, '^(.+)%.%d+$')
  if not run or call('SISMEMBER', K.parked, run) == 1 then return false end
  if BASE > 1 and num(call('HGET', key, 'epoch') or '1', 'the epoch of a run') < BASE then return false end
  count_ended()
  RUN_KEY, RUN, POLICY = key, run, nil
  return true
end

-- When recipients of the run at hand are tried again.
local function policy()
  if not POLICY then
    local f = call('HMGET', RUN_KEY, 'base', 'cap', 'ttl')
    POLICY = { base = f[1], cap = f[2], ttl = f[3] }
  end
  return POLICY
end

-- Reads the head of the next report: batch, fence, key, where its reply texts begin, indexes of intents. Nil: something is
-- special about it or its run.
local function next_report()
  local id, fence, intents, at, run_key = ARGV[AT], ARGV[AT + 1], ARGV[AT + 3], AT + 4, KEYS[KEY_AT + 1]
  local key = KEYS[KEY_AT]
  sequence, progress, texts, groups = struct.unpack(REPORT_HEAD, ARGV[AT + 2])
  details = texts > 0 and KEYS[KEY_AT + 2]
  AT = at + (texts > 0 and texts + 1 or 0) + groups * 4
  KEY_AT = KEY_AT + (texts > 0 and 3 or 2)
  if math.max(sequence, progress) > KEPT_MAX or not take_run(id, run_key) then return nil end
  return id, fence, key, at, intents
end

-- The lane of its entry, see `hold_of`.
local function is_lane_paused(holder)
  return call('SISMEMBER', K.lanes, string.match(holder, '^[^|]+|[^|]+|%d+|%d+|%d+|%d+|%d+o?|([^|]+)|') or '') == 1
end

-- The lease, if this fence is the current one and nobody of it is counted against a limit.
local function lease_of(id, fence, kept)
  local holder = call('HGET', K.holder, id)
  if not holder or sub(holder, 1, #fence + 1) ~= fence .. '|' or lanes_paused and is_lane_paused(holder) then return nil end
  local epoch, counter = string.match(fence, '^(%d+)%-(%d+)')
  if BASE > 1 and tonumber(epoch) < BASE then return nil end
  local h = kept_of(kept, counter)
  if h then return h end
  local hard, progress_at, progress, sequence, counted, outcome =
    string.match(holder, '^[^|]+|[^|]+|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)(o?)|')
  local expires = call('ZSCORE', K.lease, id)
  if counted ~= '0' or not expires then return nil end
  return { counter = counter, expires_at = tonumber(expires), noted_at = tonumber(expires), hard_at = tonumber(hard),
    progress_at = tonumber(progress_at), progress = tonumber(progress), sequence = tonumber(sequence), open = 0,
    outcome = outcome }
end

-- What is read of a batch: its states and symbols in two pieces. A piece becomes letters when somebody in it changes. Nil:
-- it cannot be read. (Other letters than those that change are looked at when the batch goes back.)
local function batch_of(s0, s1, m0, m1)
  s1 = s1 or ''
  if m0 and (#m0 ~= #s0 or #(m1 or '') ~= #s1) then return nil end
  return { is_new = not m0, s0 = s0, s1 = s1, m0 = m0 or rep('.', #s0), m1 = m1 or rep('.', #s1), letters = {}, set = {}, a = 0, d = 0, r = 0 }
end

-- Changes those at these indexes, who all have this state and symbol. False: somebody has not.
local function turn(b, indexes, state, symbol, to_state, to_symbol)
  for n = 1, #indexes do
    local piece, at = 0, indexes[n] + 1
    if at > PIECE then piece, at = 1, at - PIECE end
    local letters = b.letters[piece]
    if not letters then
      letters = { { byte(piece == 0 and b.s0 or b.s1, 1, -1) }, { byte(piece == 0 and b.m0 or b.m1, 1, -1) } }
      b.letters[piece] = letters
    end
    local states, symbols = letters[1], letters[2]
    if states[at] ~= state or symbols[at] ~= symbol then return false end
    states[at], symbols[at] = to_state, to_symbol
  end
  return true
end

-- Fields of details.
local FIELDS = {}

local function field_of(index)
  local field = FIELDS[index]
  if not field then
    field = int(index)
    FIELDS[index] = field
  end
  return field
end

local function put(set, field, value)
  local at = #set
  set[at + 1], set[at + 2] = field, value
end

-- Reply texts, by their places among the outcomes.
local function take_replies(b, at, group)
  local indexes, places = '', { byte(ARGV[at], 1, -1) }
  for n = group, group + groups * 4 - 1, 4 do indexes = indexes .. ARGV[n + 3] end
  b.replies = {}
  for n = 1, texts do put(b.replies, field_of(byte(indexes, places[n])), ARGV[at + n]) end
  call('HLEN', details)
end

-- The outcomes of the report, if nothing happened to these recipients before and each is accepted, rejected or to be tried
-- again. `granted`: what is stored of those that got an intent. False: something is special.
local function take_outcomes(b, h, at, granted)
  if sequence <= h.sequence then return false end
  h.fresh, h.sequence = '0|0|||' .. h.counter .. '||||', sequence
  if progress > h.progress then h.progress, h.progress_at = progress, now end
  if groups == 0 then return true end
  if granted ~= h.fresh then return false end
  local known, symbol, tried, group = b.m0 .. b.m1, nil, 0, texts > 0 and at + 1 + texts or at
  local left, ended_now = 0, '1|0|' .. NOW .. '||' .. h.counter .. '|||' .. NOW .. '|'
  for n = group, group + groups * 4 - 1, 4 do
    local kind, indexes = ARGV[n], { byte(ARGV[n + 3], 1, -1) }
    repeat
      symbol, tried = SYMBOL_FIRST + (sequence + tried) % SYMBOLS, tried + 1
      if tried > SYMBOLS then return false end
    until symbol ~= UNTOUCHED and not find(known, char(symbol), 1, true)
    local record = ended_now
    if kind == 'd' then
      local delay = retry_in(policy(), 1, FRACTION, 0, num(ARGV[n + 2], 'retry after'))
      record = delay and '1|0|' .. NOW .. '|' .. int(now + delay) .. '|' .. h.counter .. '||||'
    end
    if not (record and BECOMES[kind] and turn(b, indexes, I, GRANTED, BECOMES[kind], symbol)) then return false end
    put(b.set, 'g' .. char(symbol), record .. ARGV[n + 1])
    b[kind], left = b[kind] + #indexes, left + #indexes
  end
  h.open, h.outcome, h.progress_at = h.open - left, 'o', now
  if texts > 0 then take_replies(b, at, group) end
  return true
end

local function set_states(b)
  if b.letters[0] then b.s0 = char(unpack(b.letters[0][1])) end
  if b.letters[1] then b.s1 = char(unpack(b.letters[1][1])) end
end

-- Writes what changed of a batch, and counts it.
local function write_batch(b, key)
  local set = b.set
  local first, second = b.letters[0], b.letters[1]
  if first then
    put(set, 's0', b.s0)
    put(set, 'm0', char(unpack(first[2])))
  elseif b.is_new then
    put(set, 'm0', b.m0)
  end
  if second then
    put(set, 's1', b.s1)
    put(set, 'm1', char(unpack(second[2])))
  elseif b.is_new and b.s1 ~= '' then
    put(set, 'm1', b.m1)
  end
  call('HSET', key, unpack(set))
  if b.replies then call('HSET', details, unpack(b.replies)) end
  ended.a, ended.r = ended.a + b.a, ended.r + b.r
  carried_out = carried_out + 1
end

-- Carries out one report after the other with `act`, which answers nil when it wrote nothing.
local function each_usual(names, act)
  call, byte, char, sub, find, rep = redis.call, string.byte, string.char, string.sub, string.find, string.rep
  if K.names ~= names or K.shard ~= KEYS[1] then
    K = { names = names }
    for n, name in ipairs(names) do K[name] = KEYS[n] end
  end
  local time = call('TIME')
  now = time[1] * 1000 + floor_div(time[2], 1000)
  NOW = int(now)
  ended, carried_out, RUN_KEY, RUN, STAMP, AT = { a = 0, r = 0, batches = 0 }, 0, nil, nil, nil, 2
  KEY_AT, over, stamped = #names + 1, {}, {}
  local met, confirmed, epoch, base, stop, suppressed =
    unpack(call('HMGET', K.shard, 'met', 'server', 'epoch', 'base', 'stop', 'suppressed'))
  BASE = base and num(base, 'base') or 1
  SUPPRESSED = suppressed and num(suppressed, 'the number of a set')
  is_met = met == confirmed
  if not is_met or stop then return { epoch, false, MORE } end
  call('HLEN', K.count)
  lanes_paused = K.lanes and call('SCARD', K.lanes) > 0
  local answers = { epoch, false }
  local number, first, second
  number, FRACTION, first, second = struct.unpack(HEAD, ARGV[1])
  for n = 1, number do
    local ok, answer = true, nil
    if number == 1 then answer = act(first, second) else ok, answer = pcall(act, first, second) end
    answers[n + 2] = ok and answer or MORE
    if not (ok and answer) then break end
  end
  if carried_out > 0 then
    count_ended()
    if #over > 0 then
      call('ZREM', K.lease, unpack(over))
      call('HDEL', K.holder, unpack(over))
      call('HSET', K.shard, 'stamp', int(STAMP))
      call('ZADD', K.to_retire, unpack(stamped))
    end
    answers[2] = grow(carried_out)
  end
  return answers
end
