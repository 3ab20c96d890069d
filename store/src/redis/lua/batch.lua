-- Common to the scripts that read or change recipients; prepended after the prelude.
--
-- A batch is loaded whole; `commit` writes what changed. Letters of states are those of
-- `RecipientState::letter`. Most recipients of a batch share one of a few records (sent in the same
-- window, same reply), so a record is stored once, under a symbol, and `m0`, `m1` hold the symbol of each
-- recipient: '.' for one that nothing happened to, '~' for one whose record is in a field of its own index
-- because all symbols were taken.

local P, I, D, A, R, X, S, C, U = 112, 105, 100, 97, 114, 120, 115, 99, 117
local COUNTER = { [P] = 'pending', [I] = 'pending', [D] = 'pending', [A] = 'accepted', [R] = 'rejected',
  [X] = 'exhausted', [S] = 'suppressed', [C] = 'cancelled', [U] = 'unknown' }
-- States are kept in pieces of this many letters: a longer value would turn the small hash into a large one.
local PIECE = 50
-- '.' and '~'.
local UNTOUCHED, ALONE = 46, 126
-- '!' is of those granted on the usual way, see usual.lua.
local SYMBOL_FIRST, SYMBOLS = 34, 92
local TRANSACTION_MS_MAX = 660000
local RETRY_COALESCE_MS = 2000
local DOUBTS_MAX = 5
local ENDS_WORKERS, DEAD_LETTER = 'ends workers', 'dead_letter'

-- Fences of an epoch before it are stale: the shard went back.
local BASE, STOPPED, STAMP

local run, run_settled
-- Recipients of the run that moved, by the name of the counter.
local moved
local woke
-- Doubts after which a recipient is unknown.
local doubts_max

-- Steps of the shard that are not written, see `grow`.
local growth

-- Of this call, after `begin`.
local function begin_batch()
  growth = 0
  run, run_settled, moved, woke, doubts_max = nil, false, {}, false, DOUBTS_MAX
  local f = call('HMGET', K.shard, 'base', 'met', 'server', 'stop', 'stamp')
  BASE, STOPPED, STAMP = num(f[1] or '1', 'base'), is_stopped(f[2], f[3], f[4]), f[5] or '0'
  is_met = f[2] == f[3]
end

-- What ends recipients, or begins them again, waits until it is known what the server lacks: whoever ends now may have
-- been sent to again in what was lost, and would carry no reason.
local function await_comparison()
  if not is_met then error({ err = 'UNCOMPARED the server was not compared with what was acknowledged yet' }) end
end

local KINDS = { a = true, d = true, r = true, u = true, w = true }

-- Five arguments: index, kind, code, detail, retry after ms.
local function outcome_at(at)
  local kind, code, after = ARGV[at + 1], ARGV[at + 2], ARGV[at + 4]
  if not KINDS[kind] then corrupt('the outcome ' .. tostring(kind)) end
  return { index = num(ARGV[at], 'index'), kind = kind, code = code, detail = ARGV[at + 3], after = num(after, 'retry after') }
end

local function is_final(state)
  return state ~= P and state ~= I and state ~= D
end

local function load_run(id, key)
  local f = call('HMGET', key, 'lane', 'hold', 'base', 'cap', 'ttl', 'paused', 'cancelled', 'error', 'epoch')
  if not f[1] then return false end
  run = { id = id, lane = f[1], hold = f[2] == '1', base = f[3], cap = f[4], ttl = f[5], paused = f[6] == '1',
    cancelled = f[7] == '1', failed = f[8] ~= false, epoch = num(f[9] or '1', 'the epoch of a run') }
  run.parked = run.paused or run.cancelled or run.failed
  return true
end

-- Of an epoch before the shard went back: whoever has it lost it, and it ends as if it had expired.
local function is_stale(fence)
  if BASE == 1 then return false end
  local _, epoch = fence_counter(fence)
  return epoch < BASE
end

local function hold_of(id, kept)
  local expires = call('ZSCORE', K.lease, id)
  if not expires then return nil end
  local text = call('HGET', K.holder, id) or ''
  local fence, worker, hard, progress_at, progress, sequence, counted, outcome, entry =
    string.match(text, '^([^|]+)|([^|]+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)(o?)|(.+)$')
  if not fence then corrupt('the holder of ' .. id) end
  local h = { fence = fence, counter = fence_counter(fence), worker = worker, hard_at = tonumber(hard),
    progress_at = tonumber(progress_at), progress = tonumber(progress), sequence = tonumber(sequence),
    counted = tonumber(counted), outcome = outcome, expires_at = tonumber(expires), noted_at = tonumber(expires),
    entry = entry, is_stale = is_stale(fence) }
  h.was_counted = h.counted > 0
  local newer = not h.was_counted and kept_of(kept, h.counter)
  for name, value in pairs(newer or {}) do h[name] = value end
  return h
end

-- Who is counted against a limit is told by the holder, which is there when the batch is not; then the rest is as well.
local function write_hold(b, ttl)
  local h = b.hold
  if h.counted > 0 or h.was_counted then
    call('HSET', K.holder, b.id, string.format('%s|%s|%d|%d|%d|%d|%d%s|%s', h.fence, h.worker, h.hard_at,
      h.progress_at, h.progress, h.sequence, h.counted, h.outcome, h.entry))
    call('ZADD', K.lease, int(h.expires_at), b.id)
    if b.h.q then call('HDEL', b.key, 'q') end
    return
  end
  if is_to_note(h, ttl) then call('ZADD', K.lease, int(h.expires_at), b.id) end
  h.open = b.open
  call('HSET', b.key, 'q', kept_text(h))
end

-- A leased batch whose hash is missing or unreadable is set aside for a person: its recipients stay
-- pending, because it is not known what became of them. Also when this is all that can be done.
local function quarantine(id, hold, reason)
  call('ZREM', K.lease, id)
  call('HDEL', K.holder, id)
  dead_add(id, nil, reason, hold.entry)
  local e = entry_of(hold.entry)
  if e and hold.counted > 0 then count_flight(e, -hold.counted, true) end
  local run_id = string.match(id, '^(.+)%.%d+$')
  count_place(run_id, 'leased', 'dead')
  grow()
  write_counts()
end

-- The hash of a batch. Of its records and fences few are needed, so those are read when somebody looks; false: none.
local function hash_of(key)
  local n, site, payload, s0, s1, m0, m1, w, z, k, x, ended, expired, h, q, from = unpack(call('HMGET', key, 'n', 'site',
    'payload', 's0', 's1', 'm0', 'm1', 'w', 'z', 'k', 'x', 'ended', 'expired', 'h', 'q', 'from'))
  local fields = { n = n, site = site, payload = payload, s0 = s0, s1 = s1, m0 = m0, m1 = m1, w = w, z = z, k = k, x = x,
    ended = ended, expired = expired, h = h, q = q, from = from }
  return setmetatable(fields, { __index = function(_, field)
    local value = call('HGET', key, field)
    fields[field] = value
    return value
  end })
end

-- How many of the states are in intent.
local function intents_in(states)
  local number, at = 0, 1
  while true do
    local from = string.find(states, 'i', at, true)
    if not from then return number end
    at = string.find(states, '[^i]', from) or #states + 1
    number = number + at - from
  end
end

-- The batch, or nil and what is wrong with it. `holds` tells its lease, when that was read.
local function load_batch(id, key, details, holds)
  local sequence = tonumber(string.match(id, '^.+%.(%d+)$') or '')
  if not sequence then corrupt('the batch id ' .. id) end
  local h = hash_of(key)
  -- Written after the batch: what it cannot be written to must show before.
  call('HLEN', details)
  if not h.s0 then return nil, call('HLEN', key) > 0 and 'unreadable' or 'missing' end
  local states, count = h.s0 .. (h.s1 or ''), tonumber(h.n or '')
  if not count or count < 1 or #states ~= count or not string.find(states, '^[apidrxscu]*$') then return nil, 'unreadable' end
  -- A retired batch has the names of its segments instead of a payload.
  local retired = h.h ~= false
  if h.q and #h.q ~= KEPT_BYTES then return nil, 'unreadable' end
  if h.from and not string.match(h.from, '^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then return nil, 'unreadable' end
  if not h.site or not (retired or string.match(h.payload or '', '^%x+$')) then return nil, 'unreadable' end
  local symbols = h.m0 and h.m0 .. (h.m1 or '') or string.rep('.', count)
  if #symbols ~= count then return nil, 'unreadable' end
  local b = { id = id, key = key, details = details, count = count, h = h, st = { string.byte(states, 1, -1) },
    open = intents_in(states), symbols_before = symbols, symbols = { string.byte(symbols, 1, -1) }, parsed = {}, touched = {}, gone = {}, symbol_of_text = {}, tried = 0,
    ended = h.ended or '', detail = {}, fields = {}, hold = (holds or hold_of)(id, h.q), retired = retired,
    sus = suspicion_of(h.w), dead = set_of(h.z), fallen = set_of(h.k), erased = set_of(h.x), dead_new = {}, dead_gone = {} }
  b.expired = h.expired == '1' and '1' or '0'
  -- Not what the report at hand makes of it: no symbol may be tried twice.
  b.look_from = b.hold and b.hold.sequence or 0
  b.not_before = tonumber(h.from or '0')
  b.entry = { lane = run.lane, site = h.site, run = run.id, sequence = sequence, count = h.n, payload = h.payload or '',
    expired = b.hold and '0' or b.expired }
  return b
end

local RECORD = '^(%d+)|(%d+)|(%d*)|(%d*)|(%d*)|([st]?)|([ln]?)|(%d*)|(.*)$'

local function record_of(text)
  local attempts, doubts, first_at, due_at, intent, doubt, reason, settled_at, code = string.match(text, RECORD)
  if not attempts then corrupt('a recipient record') end
  return { attempts = tonumber(attempts), doubts = tonumber(doubts), first_at = first_at,
    due_at = tonumber(due_at) or 0, intent = intent, doubt = doubt, reason = reason, settled_at = settled_at,
    code = code }
end

local function record_text(r)
  return string.format('%d|%d|%s|%s|%s|%s|%s|%s|', r.attempts, r.doubts, r.first_at,
    r.due_at ~= 0 and int(r.due_at) or '', r.intent, r.doubt, r.reason, r.settled_at) .. r.code
end

-- What is stored of one recipient. Shared by all of one symbol and never changed: `change` makes a copy.
local function look_at(b, index)
  local symbol = b.symbols[index + 1]
  local r = b.parsed[symbol]
  if r then return r end
  if symbol == UNTOUCHED then
    r = { attempts = 0, doubts = 0, first_at = '', due_at = 0, intent = '', doubt = '', reason = '', settled_at = '',
      code = '' }
  elseif symbol == ALONE then
    return record_of(b.h[int(index)] or '')
  else
    local text = b.h['g' .. string.char(symbol)] or ''
    r = record_of(text)
    b.symbol_of_text[text] = symbol
  end
  b.parsed[symbol] = r
  return r
end

-- Keeps a record that is new in this script, and gives it a symbol: one that is known to have the same record, or the
-- next that nobody has. A symbol that only those had who change now is free with the next write. Reports begin to look
-- at different symbols, or each would look at all that were taken before it.
local function keep_record(b, at, r)
  local text = record_text(r)
  local symbol = b.symbol_of_text[text]
  if symbol then return symbol end
  repeat
    symbol = SYMBOL_FIRST + (b.look_from + b.tried) % SYMBOLS
    b.tried = b.tried + 1
  until b.tried > SYMBOLS or symbol ~= UNTOUCHED and not string.find(b.symbols_before, string.char(symbol), 1, true)
  if b.tried > SYMBOLS then
    local field = int(at - 1)
    b.h[field], b.fields[field], b.gone[field] = text, text, nil
    return ALONE
  end
  local field = 'g' .. string.char(symbol)
  b.h[field], b.fields[field] = text, text
  b.symbol_of_text[text], b.parsed[symbol] = symbol, r
  return symbol
end

-- Some have moved from one state to another: the counters of the run, and how many are in intent.
local function count_moved(b, before, after, number)
  if before == after then return end
  if before == I then b.open = b.open - number elseif after == I then b.open = b.open + number end
  local out, into = COUNTER[before], COUNTER[after]
  if out ~= into then
    moved[out] = (moved[out] or 0) - number
    moved[into] = (moved[into] or 0) + number
  end
  if is_final(after) then run_settled = true end
end

-- Changes one recipient and moves the counters of its run. `act(b, index, r, state, x, y)` gets a copy.
--
-- The recipients of a report mostly start from one record and get one reply, so what `act` made of a
-- record is remembered under `key` (a table or a function) and used again. Not with a doubt, which also counts, and
-- not without a key.
local function change(b, index, key, act, x, y)
  local st, symbols, at = b.st, b.symbols, index + 1
  local before, symbol = st[at], symbols[at]
  local from = b.parsed[symbol] or look_at(b, index)
  local known = key and from[key]
  local result
  if known and known.before == before then
    st[at], symbols[at] = known.after, known.symbol
  else
    local r = { attempts = from.attempts, doubts = from.doubts, first_at = from.first_at, due_at = from.due_at,
      intent = from.intent, doubt = from.doubt, reason = from.reason, settled_at = from.settled_at, code = from.code }
    result = act(b, index, r, before, x, y)
    -- What was known leaves no trace: a record in a tombstone is a correction.
    if result == 'already' then return result end
    local after = st[at]
    if after ~= D then r.due_at = 0 end
    local made = keep_record(b, at, r)
    symbols[at] = made
    if symbol == ALONE and made ~= ALONE then
      local field = int(index)
      b.fields[field], b.gone[field] = nil, true
    end
    if key and from.doubt == '' and made ~= ALONE then from[key] = { symbol = made, before = before, after = after } end
  end
  b.touched[at > PIECE and 1 or 0] = true
  count_moved(b, before, st[at], 1)
  return result
end

-- As `change` for `indexes[n]`, and the same for those right after it that have the same record and state, `most` in
-- all. How many.
local function change_alike(b, indexes, n, most, key, act, x, y)
  local st, symbols, at = b.st, b.symbols, indexes[n] + 1
  local before, symbol = st[at], symbols[at]
  change(b, indexes[n], key, act, x, y)
  local known = symbol ~= ALONE and b.parsed[symbol][key]
  if not known then return 1 end
  local after, made, number, low, high = known.after, known.symbol, 1, at, at
  while number < most do
    at = indexes[n + number] + 1
    if st[at] ~= before or symbols[at] ~= symbol then break end
    st[at], symbols[at] = after, made
    if at < low then low = at elseif at > high then high = at end
    number = number + 1
  end
  b.touched[low > PIECE and 1 or 0], b.touched[high > PIECE and 1 or 0] = true, true
  count_moved(b, before, after, number - 1)
  return number
end

local function end_as(b, index, r, state)
  b.st[index + 1] = state
  r.settled_at = NOW
end

local function defer(b, index, r, delay)
  b.st[index + 1] = D
  r.due_at = now + delay
end

local function count_resend(reason, by)
  add_count(run.id, reason == 'l' and 'resent_l' or 'resent_n', by)
end

-- It is not known whether the message arrived. No delay: it is never tried again.
local function enter_doubt(b, index, r, reason, delay)
  if r.first_at == '' then r.first_at = NOW end
  r.attempts = r.attempts + 1
  r.doubts = r.doubts + 1
  r.doubt = 's'
  r.reason = reason
  if delay and not (run.hold or run.cancelled or r.doubts >= doubts_max) then
    defer(b, index, r, delay)
  else
    end_as(b, index, r, U)
  end
end

-- Nobody tries it any more.
local function give_up(b, index, r)
  end_as(b, index, r, r.doubt == 's' and U or X)
end

-- May have been sent what the shard forgot when it went back.
local function come_under_suspicion(r)
  r.doubts = r.doubts + 1
  r.doubt, r.reason, r.intent = 's', 'n', ''
end

-- Whether it was given up and a person may begin again with it.
local function may_reopen(b, index, unknown)
  if b.erased[index] then return false end
  local state = b.st[index + 1]
  return (state == X and (unknown or not (run.hold and run.epoch < BASE))) or (state == U and unknown)
end

-- A new generation: its time to live begins anew, what is known of it stays. When the shard went back since the run was
-- created, it may have been begun again before.
local function reopen(b, index, r)
  r.first_at, r.settled_at = '', ''
  if run.epoch < BASE and r.doubt == '' then come_under_suspicion(r) end
  if r.attempts > 0 then defer(b, index, r, 0) else b.st[index + 1] = P end
end

local function forget_dead(b, index)
  if not b.dead[index] then return end
  b.dead[index] = nil
  b.dead_gone[#b.dead_gone + 1] = index
end

local function hand_back(b, index, r)
  r.intent = ''
  if r.attempts > 0 then defer(b, index, r, 0) else b.st[index + 1] = P end
  if r.doubt == 't' and r.reason ~= '' then
    r.doubt = 's'
    count_resend(r.reason, -1)
  end
end

-- Whether there may be a reply text. (Who was begun again has attempts and no first time.)
local function was_tried(r)
  return r.first_at ~= '' or r.attempts > 0
end

-- Keeps what the relay said. The text of an earlier attempt is replaced, if only by nothing.
local function take_detail(b, index, kind, detail)
  if kind ~= 'w' and (detail ~= '' or was_tried(look_at(b, index))) then b.detail[index] = detail end
end

-- An outcome `o` for a recipient in intent; its detail is taken apart.
local function settle(b, index, r, _, o, fraction)
  if o.kind == 'w' then return hand_back(b, index, r) end
  if r.first_at == '' then r.first_at = NOW end
  r.code = o.code
  if o.kind == 'a' then
    end_as(b, index, r, A)
  elseif o.kind == 'r' then
    end_as(b, index, r, R)
  else
    local elapsed = math.max(now - tonumber(r.first_at), 0)
    local delay = retry_in(run, r.attempts + 1, fraction, elapsed, o.after)
    if o.kind == 'u' then return enter_doubt(b, index, r, 'l', delay) end
    if delay then defer(b, index, r, delay) else end_as(b, index, r, X) end
  end
  r.attempts = r.attempts + 1
  r.doubt = ''
end

-- An intent under the fence with this counter.
local function grant(b, index, r, _, counter)
  b.st[index + 1] = I
  r.intent = counter
  if r.doubt == 's' and r.reason ~= '' then
    r.doubt = 't'
    count_resend(r.reason, 1)
  end
end

local function doubt_not_recorded(b, index, r, _, grace)
  enter_doubt(b, index, r, 'n', grace)
end

local function cancel_pending(b, index, r)
  end_as(b, index, r, r.reason ~= '' and U or C)
end

-- Everybody in intent becomes in doubt: outcome not recorded. How many.
local function doubt_intents(b, grace)
  local doubts = 0
  for index = 0, b.count - 1 do
    if b.st[index + 1] == I then
      change(b, index, doubt_not_recorded, doubt_not_recorded, grace)
      doubts = doubts + 1
    end
  end
  return doubts
end

-- Writes a lease that goes on. What was counted against a limit is kept true.
local function keep_lease(b)
  local before = b.hold.counted
  if before > 0 then
    b.hold.counted = b.open
    count_flight(b.entry, b.hold.counted - before, b.hold.counted < before)
  end
  write_hold(b, math.huge)
end
