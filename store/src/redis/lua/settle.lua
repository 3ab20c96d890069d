-- Common to the scripts that change recipients; prepended after batch.lua. Where a batch belongs, and writing it:
-- `commit` writes its recipients, `put_back` moves it between the indexes as well.

local function states_of(b)
  return string.char(unpack(b.st, 1, b.count))
end

local function place_of(b)
  if b.hold then return 'leased' end
  if b.retired then return 'settled' end
  local text = entry_text(b.entry)
  if call('ZSCORE', K.rdy, text) then return 'ready' end
  if call('ZSCORE', K.dly, text) then return 'delayed' end
  if call('HGET', K.dead, b.id) then return 'dead' end
  for index = 1, b.count do
    if not is_final(b.st[index]) then corrupt('the batch ' .. b.id .. ' is pending and in no index') end
  end
  return 'settled'
end

-- Of a batch that has something to send.
local function at_once_or_later(b)
  if b.not_before > now then return 'delayed', b.not_before end
  return 'ready'
end

-- Where a batch without a lease belongs, and when it is due. Who is not in the next lease does not make it due.
local function place_of_rest(b)
  -- Most batches end so, and a pattern is faster than a loop.
  if string.find(states_of(b), '^[^pd]*$') then return 'settled' end
  local deferred, earliest = false, nil
  for index = 1, b.count do
    local state = b.st[index]
    if (state == P or state == D) and is_offered(b.sus, index - 1) then
      if state == P then return at_once_or_later(b) end
      deferred = true
    end
  end
  if not deferred then return 'settled' end
  local due = {}
  for index = 0, b.count - 1 do
    if b.st[index + 1] == D and is_offered(b.sus, index) then
      local at = look_at(b, index).due_at
      if at <= now then return at_once_or_later(b) end
      due[#due + 1] = at
      if not earliest or at < earliest then earliest = at end
    end
  end
  local latest = earliest
  for _, at in ipairs(due) do
    if at <= earliest + RETRY_COALESCE_MS and at > latest then latest = at end
  end
  return 'delayed', math.max(latest, b.not_before)
end

local function write_letters(b, set, name, letters)
  for piece = 0, floor_div(b.count - 1, PIECE) do
    if b.touched[piece] then
      local text = string.char(unpack(letters, piece * PIECE + 1, math.min((piece + 1) * PIECE, b.count)))
      local field = name .. piece
      if b.h[field] ~= text then
        b.h[field] = text
        set[#set + 1] = field
        set[#set + 1] = text
      end
    end
  end
end

-- Recipients, fences and counters. Placing the batch is a step of its own, after this.
local function commit(b)
  local set, gone = {}, {}
  write_suspicion(b, set, gone)
  if next(b.touched) then
    write_letters(b, set, 's', b.st)
    -- Who had no record before has all letters to write.
    if not b.h.m0 then b.touched = { [0] = true, true } end
    write_letters(b, set, 'm', b.symbols)
    b.symbols_before = b.h.m0 .. (b.h.m1 or '')
  end
  for field, value in pairs(b.fields) do
    set[#set + 1] = field
    set[#set + 1] = value
  end
  for field in pairs(b.gone) do gone[#gone + 1] = field end
  if #set > 0 then call('HSET', b.key, unpack(set)) end
  if #gone > 0 then call('HDEL', b.key, unpack(gone)) end
  local keep, drop = {}, {}
  for index, text in pairs(b.detail) do
    if text == '' or b.erased[index] then
      drop[#drop + 1] = index
    else
      keep[#keep + 1] = index
      keep[#keep + 1] = text
    end
  end
  if #keep > 0 then call('HSET', b.details, unpack(keep)) end
  if #drop > 0 then call('HDEL', b.details, unpack(drop)) end
  for _, index in ipairs(b.dead_gone) do dead_remove(b.id, index) end
  for _, index in ipairs(b.dead_new) do dead_add(b.id, index, ENDS_WORKERS, '') end
  b.touched, b.gone, b.fields, b.detail = {}, {}, {}, {}
end

-- Counts what moved in the run, by one step of the shard.
local function count_run()
  growth = growth + 1
  for name, by in pairs(moved) do
    add_count(run.id, name, by)
    if by < 0 and (name == 'unknown' or name == 'exhausted') then add_count(run.id, 'moves', 1) end
  end
  moved = {}
  if run_settled then settled_now[run.id] = true end
end

-- All steps of this call at once.
local function write_growth()
  if growth > 0 then grow(growth) end
  growth = 0
end

local function write_run()
  count_run()
  write_growth()
  write_counts()
  if woke then wake_all() end
end

-- Nobody in it may be replayed, so its payload need not be kept.
local function may_retire(b)
  return string.find(states_of(b), '^[^ux]*$') ~= nil
end

-- Ends a lease or sorts an idle batch anew: a cancelled run loses its pending recipients, others those that are erased, the rest goes
-- where it belongs. Nobody may be in intent. Writes the batch; `write_run` is left to the caller.
-- With `not_before`, what is left is not due before.
local function put_back(b, from, not_before)
  if run.cancelled or next(b.erased) then
    for index = 0, b.count - 1 do
      if not is_final(b.st[index + 1]) and (run.cancelled or b.erased[index]) then
        change(b, index, cancel_pending, cancel_pending)
      end
    end
  end
  if from == 'leased' then b.fallen = {} end
  if b.sus then
    suspicion_put_back(b.sus, function(index) return b.st[index + 1] and not is_final(b.st[index + 1]) end)
  end
  local to, due = place_of_rest(b)
  if not_before and not_before > now and (to == 'ready' or to == 'delayed' and due < not_before) then
    to, due = 'delayed', not_before
  end
  if b.expired ~= b.entry.expired then b.fields.expired = b.entry.expired end
  if CHECKS_ITSELF then
    -- Of the keys that the usual way writes, these are not read before.
    if from == 'leased' and to == 'settled' and b.hold.counted == 0 then
      check_type('ZCARD', K.to_retire)
      check_type('HLEN', K.count)
    else
      check_types()
    end
  end
  -- Read before the first write: an unreadable stamp refuses.
  local stamp = num(STAMP, 'the stamp') + 1
  commit(b)
  if from == 'leased' then
    call('ZREM', K.lease, b.id)
    call('HDEL', K.holder, b.id)
    if b.hold.counted > 0 then count_flight(b.entry, -b.hold.counted, true) end
  elseif from == 'ready' then
    ready_remove(b.entry)
  elseif from == 'delayed' then
    call('ZREM', K.dly, entry_text(b.entry))
  elseif from == 'settled' then
    call('ZREM', K.to_retire, b.id)
  elseif from == 'dead' then
    dead_remove(b.id)
  end
  if to == 'ready' then
    ready_add(b.entry, run.parked)
    woke = woke or not run.parked
  elseif to == 'delayed' then
    call('ZADD', K.dly, int(due), entry_text(b.entry))
  elseif may_retire(b) then
    -- Last among those whose history is to be written, with a stamp that nothing had before.
    STAMP = stamp
    call('HSET', K.shard, 'stamp', int(stamp))
    call('ZADD', K.to_retire, int(stamp), b.id)
  end
  count_place(run.id, from, to)
  return to, due
end
