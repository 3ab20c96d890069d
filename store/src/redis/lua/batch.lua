-- Common to the scripts that read or change recipients; prepended after the prelude.
--
-- A batch is loaded whole (states, place, lease), its records one by one as they are needed; `commit`
-- writes what changed. Letters of states are those of `RecipientState::letter`.

local P, I, D, A, R, X, S, C, U = 112, 105, 100, 97, 114, 120, 115, 99, 117
local COUNTER = { [P] = 'pending', [I] = 'pending', [D] = 'pending', [A] = 'accepted', [R] = 'rejected',
  [X] = 'exhausted', [S] = 'suppressed', [C] = 'cancelled', [U] = 'unknown' }
-- States are kept in pieces of this many letters: a longer value would turn the small hash into a large one.
local PIECE = 50
local TRANSACTION_MS_MAX = 660000
local RETRY_COALESCE_MS = 2000
local DOUBTS_MAX = 5

local run
local run_settled = false
local woke = false

local function is_final(state)
  return state ~= P and state ~= I and state ~= D
end

local function load_run(id, key)
  local f = call('HMGET', key, 'lane', 'hold', 'base', 'cap', 'ttl', 'paused', 'cancelled', 'error')
  if not f[1] then return false end
  run = { id = id, lane = f[1], hold = f[2] == '1', base = num(f[3], 'retry base'), cap = num(f[4], 'retry cap'),
    ttl = num(f[5], 'retry ttl'), paused = f[6] == '1', cancelled = f[7] == '1', failed = f[8] ~= false }
  run.parked = run.paused or run.cancelled or run.failed
  return true
end

local function hold_of(id)
  local expires = call('ZSCORE', K.lease, id)
  if not expires then return nil end
  local text = call('HGET', K.holder, id) or ''
  local fence, worker, hard, progress_at, progress, sequence, entry =
    string.match(text, '^([^|]+)|([^|]+)|(%d+)|(%d+)|(%d+)|(%d+)|(.+)$')
  if not fence then corrupt('the holder of ' .. id) end
  return { fence = fence, worker = worker, hard_at = tonumber(hard), progress_at = tonumber(progress_at),
    progress = tonumber(progress), sequence = tonumber(sequence), expires_at = tonumber(expires), entry = entry }
end

local function write_hold(b)
  local h = b.hold
  call('HSET', K.holder, b.id, h.fence .. '|' .. h.worker .. '|' .. int(h.hard_at) .. '|' .. int(h.progress_at)
    .. '|' .. int(h.progress) .. '|' .. int(h.sequence) .. '|' .. h.entry)
  call('ZADD', K.lease, int(h.expires_at), b.id)
end

-- A leased batch whose hash is missing or unreadable is set aside for a person: its recipients stay
-- pending, because it is not known what became of them. Also when this is all that can be done.
local function quarantine(id, hold, reason)
  call('ZREM', K.lease, id)
  call('HDEL', K.holder, id)
  call('HSET', K.dead, id, int(now) .. '|' .. reason .. '|' .. hold.entry)
  local run_id = string.match(id, '^(.+)%.%d+$')
  add_count(run_id, 'b_leased', -1)
  add_count(run_id, 'b_dead', 1)
  write_counts()
end

local function batch_fields(f)
  local states, count = (f[1] or '') .. (f[2] or ''), tonumber(f[3] or '')
  if not f[1] or not count or #states ~= count or count < 1 then return nil end
  if string.find(states, '[^pidarxscu]') or not f[4] or not string.match(f[5] or '', '^%x+$') then return nil end
  return states, count
end

-- The batch, or nil and what is wrong with it.
local function load_batch(id, key, details)
  local sequence = tonumber(string.match(id, '%.(%d+)$') or '')
  if not sequence then corrupt('the batch id ' .. id) end
  local f = call('HMGET', key, 's0', 's1', 'n', 'site', 'payload', 'expired', 'ended')
  local states, count = batch_fields(f)
  if not states then return nil, f[1] and 'unreadable' or 'missing' end
  local b = { id = id, key = key, details = details, count = count, st = { string.byte(states, 1, -1) },
    dirty = false, ended = f[7] or '', records = {}, changed = {}, detail = {}, fields = {}, hold = hold_of(id) }
  b.expired = f[6] == '1' and '1' or '0'
  b.entry = { lane = run.lane, site = f[4], run = run.id, sequence = sequence, count = int(count), payload = f[5],
    expired = b.hold and '0' or b.expired }
  return b
end

local RECORD = '^(%d+)|(%d+)|(%d*)|(%d*)|(%d*)|([st]?)|([ln]?)|(%d*)|(.*)$'

local function record_of(text)
  if not text then
    return { attempts = 0, doubts = 0, first_at = '', due_at = 0, intent = '', doubt = '', reason = '',
      settled_at = '', code = '' }
  end
  local attempts, doubts, first_at, due_at, intent, doubt, reason, settled_at, code = string.match(text, RECORD)
  if not attempts then corrupt('a recipient record') end
  return { attempts = tonumber(attempts), doubts = tonumber(doubts), first_at = first_at,
    due_at = tonumber(due_at) or 0, intent = intent, doubt = doubt, reason = reason, settled_at = settled_at,
    code = code }
end

local function record_text(r, state)
  local due = state == D and int(r.due_at) or ''
  return int(r.attempts) .. '|' .. int(r.doubts) .. '|' .. r.first_at .. '|' .. due .. '|' .. r.intent .. '|'
    .. r.doubt .. '|' .. r.reason .. '|' .. r.settled_at .. '|' .. r.code
end

local function record(b, index)
  local r = b.records[index]
  if not r then
    r = record_of(call('HGET', b.key, index))
    b.records[index] = r
  end
  return r
end

-- Reads the records of all recipients in one of these states at once (a batch has 100 at most).
local function load_records(b, wanted)
  local indexes = {}
  for index = 0, b.count - 1 do
    if wanted[b.st[index + 1]] and not b.records[index] then indexes[#indexes + 1] = index end
  end
  if #indexes == 0 then return end
  local texts = call('HMGET', b.key, unpack(indexes))
  for at, index in ipairs(indexes) do b.records[index] = record_of(texts[at]) end
end

-- Changes one recipient and moves the counters of its run.
local function change(b, index, act)
  local before, r = b.st[index + 1], record(b, index)
  local result = act(r, before)
  local after = b.st[index + 1]
  b.changed[index] = true
  if before ~= after then
    b.dirty = true
    add_count(run.id, COUNTER[before], -1)
    add_count(run.id, COUNTER[after], 1)
    if is_final(after) then run_settled = true end
  end
  return result
end

local function end_as(b, index, r, state)
  b.st[index + 1] = state
  r.settled_at = int(now)
end

local function defer(b, index, r, delay)
  b.st[index + 1] = D
  r.due_at = now + delay
end

-- When it is tried again, or nil when the time to live is over: `backoff::retry_in_ms`.
local function retry_in(attempts, fraction, elapsed, after)
  local doublings = math.min(math.max(attempts - 1, 0), 30)
  local bound = math.min(run.base * 2 ^ doublings, run.cap)
  local half = floor_div(bound, 2)
  local jitter = floor_div((bound - half) * math.min(fraction, 1000000), 1000000)
  local delay = math.max(half + jitter, after, 1)
  if elapsed + delay <= run.ttl then return delay end
  return nil
end

local function count_resend(reason, by)
  add_count(run.id, reason == 'l' and 'resent_l' or 'resent_n', by)
end

-- It is not known whether the message arrived. No delay: it is never tried again.
local function enter_doubt(b, index, r, reason, delay)
  if r.first_at == '' then r.first_at = int(now) end
  r.attempts = r.attempts + 1
  r.doubts = r.doubts + 1
  r.doubt = 's'
  r.reason = reason
  if delay and not (run.hold or run.cancelled or r.doubts >= DOUBTS_MAX) then
    defer(b, index, r, delay)
  else
    end_as(b, index, r, U)
  end
end

local function hand_back(b, index, r)
  if r.attempts > 0 then defer(b, index, r, 0) else b.st[index + 1] = P end
  if r.doubt == 't' and r.reason ~= '' then
    r.doubt = 's'
    count_resend(r.reason, -1)
  end
end

-- An outcome `o` for a recipient in intent.
local function settle(b, index, r, o, fraction)
  if o.kind == 'w' then return hand_back(b, index, r) end
  if r.first_at == '' then r.first_at = int(now) end
  r.code = o.code
  b.detail[index] = o.detail
  local elapsed = math.max(now - tonumber(r.first_at), 0)
  local delay = retry_in(r.attempts + 1, fraction, elapsed, o.after)
  if o.kind == 'u' then return enter_doubt(b, index, r, 'l', delay) end
  if o.kind == 'a' then
    end_as(b, index, r, A)
  elseif o.kind == 'r' then
    end_as(b, index, r, R)
  elseif delay then
    defer(b, index, r, delay)
  else
    end_as(b, index, r, X)
  end
  r.attempts = r.attempts + 1
  r.doubt = ''
end

local function grant_intent(b, index, fence)
  local counter = fence_counter(fence)
  b.fields['f' .. counter] = fence
  change(b, index, function(r)
    b.st[index + 1] = I
    r.intent = counter
    if r.doubt == 's' and r.reason ~= '' then
      r.doubt = 't'
      count_resend(r.reason, 1)
    end
  end)
end

local function clear_standing_doubt(r)
  if r.doubt == 's' then
    r.doubts = math.max(r.doubts - 1, 0)
    r.doubt = ''
    if r.doubts == 0 then r.reason = '' end
  end
end

local function fact_of(b, index, r, state, counter, o, fraction)
  local own_intent = state == I and (IGNORE_FENCES or r.intent == counter)
  if o.kind == 'a' then
    if state == A then return 'already' end
    if own_intent then r.attempts = r.attempts + 1 end
    clear_standing_doubt(r)
    if r.first_at == '' then r.first_at = int(now) end
    r.code = o.code
    b.detail[index] = o.detail
    r.doubt = ''
    end_as(b, index, r, A)
    return 'applied'
  end
  if own_intent then
    settle(b, index, r, o, fraction)
    return 'applied'
  end
  local from_doubt = (state == D or state == U) and r.doubt == 's' and (IGNORE_FENCES or r.intent == counter)
  if not from_doubt then return 'already' end
  if o.kind == 'u' then
    r.reason = 'l'
    return 'applied'
  end
  r.attempts = math.max(r.attempts - 1, 0)
  clear_standing_doubt(r)
  r.settled_at = ''
  b.st[index + 1] = P
  settle(b, index, r, o, fraction)
  return 'applied'
end

-- A fact about one recipient: 'applied', 'already' or 'refused'.
local function fact(b, fence, o, fraction)
  local counter = fence_counter(fence)
  local known = b.fields['f' .. counter] or call('HGET', b.key, 'f' .. counter)
  if not known or fences_differ(known, fence) then return 'refused' end
  if o.index >= b.count then return 'refused' end
  return change(b, o.index, function(r, state) return fact_of(b, o.index, r, state, counter, o, fraction) end)
end

-- Everybody in intent becomes in doubt: outcome not recorded. How many.
local function doubt_intents(b, grace)
  load_records(b, { [I] = true })
  local doubts = 0
  for index = 0, b.count - 1 do
    if b.st[index + 1] == I then
      change(b, index, function(r) enter_doubt(b, index, r, 'n', grace) end)
      doubts = doubts + 1
    end
  end
  return doubts
end

local function in_intent(b)
  local n = 0
  for index = 1, b.count do
    if b.st[index] == I then n = n + 1 end
  end
  return n
end

local function place_of(b)
  if b.hold then return 'leased' end
  local text = entry_text(b.entry)
  if call('ZSCORE', K.rdy, text) then return 'ready' end
  if call('ZSCORE', K.dly, text) then return 'delayed' end
  for index = 1, b.count do
    if not is_final(b.st[index]) then corrupt('the batch ' .. b.id .. ' is pending and in no index') end
  end
  return 'settled'
end

-- Where a batch without a lease belongs, and when it is due.
local function place_of_rest(b)
  local deferred, earliest = false, nil
  for index = 1, b.count do
    local state = b.st[index]
    if state == P then return 'ready' end
    if state == D then deferred = true end
  end
  if not deferred then return 'settled' end
  load_records(b, { [D] = true })
  local due = {}
  for index = 0, b.count - 1 do
    if b.st[index + 1] == D then
      local at = record(b, index).due_at
      if at <= now then return 'ready' end
      due[#due + 1] = at
      if not earliest or at < earliest then earliest = at end
    end
  end
  local latest = earliest
  for _, at in ipairs(due) do
    if at <= earliest + RETRY_COALESCE_MS and at > latest then latest = at end
  end
  return 'delayed', latest
end

-- Recipients, fences and counters. Placing the batch is a step of its own, after this.
local function commit(b)
  local set = {}
  for index in pairs(b.changed) do
    set[#set + 1] = index
    set[#set + 1] = record_text(b.records[index], b.st[index + 1])
  end
  if b.dirty then
    for piece = 0, floor_div(b.count - 1, PIECE) do
      local to = math.min((piece + 1) * PIECE, b.count)
      set[#set + 1] = 's' .. piece
      set[#set + 1] = string.char(unpack(b.st, piece * PIECE + 1, to))
    end
  end
  for field, value in pairs(b.fields) do
    set[#set + 1] = field
    set[#set + 1] = value
  end
  if #set > 0 then call('HSET', b.key, unpack(set)) end
  local keep, drop = {}, {}
  for index, text in pairs(b.detail) do
    if text == '' then
      drop[#drop + 1] = index
    else
      keep[#keep + 1] = index
      keep[#keep + 1] = text
    end
  end
  if #keep > 0 then call('HSET', b.details, unpack(keep)) end
  if #drop > 0 then call('HDEL', b.details, unpack(drop)) end
  b.changed, b.fields, b.detail, b.dirty = {}, {}, {}, false
end

local function write_run()
  write_counts()
  if run_settled then call('HSET', K.count, run.id .. '|settled_at', int(now)) end
  if woke then wake_all() end
end

-- Ends a lease or sorts an idle batch anew: a cancelled run loses its pending recipients, the rest goes
-- where it belongs. Nobody may be in intent. Writes the batch; `write_run` is left to the caller.
local function put_back(b, from)
  if run.cancelled then
    load_records(b, { [P] = true, [D] = true })
    for index = 0, b.count - 1 do
      if not is_final(b.st[index + 1]) then
        change(b, index, function(r) end_as(b, index, r, r.reason ~= '' and U or C) end)
      end
    end
  end
  local to, due = place_of_rest(b)
  if b.expired ~= b.entry.expired then b.fields.expired = b.entry.expired end
  commit(b)
  if from == 'leased' then
    call('ZREM', K.lease, b.id)
    call('HDEL', K.holder, b.id)
  elseif from == 'ready' then
    ready_remove(b.entry)
  elseif from == 'delayed' then
    call('ZREM', K.dly, entry_text(b.entry))
  end
  if to == 'ready' then
    ready_add(b.entry, run.parked)
    woke = woke or not run.parked
  elseif to == 'delayed' then
    call('ZADD', K.dly, int(due), entry_text(b.entry))
  end
  add_count(run.id, 'b_' .. from, -1)
  add_count(run.id, 'b_' .. to, 1)
  return to, due
end
