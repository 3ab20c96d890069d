-- add_batches: batches become ready, or delayed until their time, and the cursor of the split moves, as one. Their payloads were set
-- before it in the same MULTI with a time to live; from here on they live as long as the batch.
-- KEYS     the shard's, then: run, its bad rows, then of each batch its hash and its payload
-- ARGV     1 run id, 2 fence, 3 cursor, 4 cursor next, 5 open, 6 bad rows, 7 repeated rows, 8 complete (0, 1), 9 ttl ms,
--          10 bad rows kept max, 11 number of bad rows, then row and reason of each, then number of batches, then of each
--          sequence, site, count, payload name, not before (0: it is ready), number of the set it was checked at
-- returns  done, lost, stopped
-- refuses  a fence that is not the split's; a cursor or sequence that is not the next; a payload that is not there

local id, fence, cursor, cursor_next, complete, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[8], num(ARGV[9], 'ttl')
local run_key, bad_key = KEYS[OWN + 1], KEYS[OWN + 2]
local at = 12 + num(ARGV[11], 'bad rows') * 2
local number = num(ARGV[at], 'batches')
local batches = {}
for n = 0, number - 1 do
  local from = at + 1 + n * 6
  batches[n + 1] = { key = KEYS[OWN + 3 + n * 2], payload_key = KEYS[OWN + 4 + n * 2],
    sequence = num(ARGV[from], 'sequence'), site = ARGV[from + 1], count = num(ARGV[from + 2], 'count'),
    payload = ARGV[from + 3], not_before = num(ARGV[from + 4], 'not before'),
    checked = num(ARGV[from + 5], 'the number of a set') }
end

local f = call('HMGET', run_key, 'lane', 'cursor', 'sequence', 'complete', 'cancelled', 'error', 'paused', 'sites')
if not f[1] then return 'lost' end
if f[5] == '1' or f[6] then return 'stopped' end
local sequence, was_complete = num(f[3], 'sequence'), f[4] == '1'
local held = string.match(call('HGET', K.split, id) or '', '^(%S+) ')
local holds = held and not fences_differ(held, fence)
local ahead = number > 0 and batches[number].sequence > sequence

local function keep_payloads()
  for _, b in ipairs(batches) do call('PERSIST', b.payload_key) end
end

if f[2] == cursor_next and f[4] == complete and not ahead then
  -- Done by an earlier call, or a mere sign of life. A complete split is held by nobody any more.
  if holds then split_set_due(id, f[7] == '1', now + ttl) end
  return (holds or was_complete) and 'done' or 'lost'
end
if not holds or was_complete or f[2] ~= cursor then return 'lost' end
for n, b in ipairs(batches) do
  if b.sequence ~= sequence + n then return 'lost' end
  if b.count < 1 or b.count > 100 then corrupt('the number of recipients of a batch') end
  if call('EXISTS', b.payload_key) == 0 then corrupt('a payload is not there') end
  if call('EXISTS', b.key) == 1 then corrupt('a batch is there that the run does not know') end
end
local pending = num(call('HGET', K.count, id .. '|pending') or '0', 'pending')
local parked = f[7] == '1'
local room = num(ARGV[10], 'bad rows max') - call('LLEN', bad_key)

keep_payloads()
grow()
local sites, woke = f[8] or '', false
for _, b in ipairs(batches) do
  local states, set = string.rep('p', b.count), {}
  for piece = 0, floor_div(b.count - 1, 50) do
    set[#set + 1] = 's' .. piece
    set[#set + 1] = string.sub(states, piece * 50 + 1, piece * 50 + 50)
  end
  if b.not_before > 0 then
    set[#set + 1] = 'from'
    set[#set + 1] = int(b.not_before)
  end
  if b.checked > 0 then
    set[#set + 1] = 'v'
    set[#set + 1] = int(b.checked)
  end
  call('HSET', b.key, 'n', int(b.count), 'site', b.site, 'payload', b.payload, unpack(set))
  if not string.find(',' .. sites .. ',', ',' .. b.site .. ',', 1, true) then
    sites = sites == '' and b.site or sites .. ',' .. b.site
  end
  local e = { lane = f[1], site = b.site, run = id, sequence = b.sequence, count = int(b.count), payload = b.payload,
    expired = '0' }
  if b.not_before > now then
    call('ZADD', K.dly, int(b.not_before), entry_text(e))
    add_count(id, 'b_delayed', 1)
  else
    ready_add(e, parked)
    add_count(id, 'b_ready', 1)
    woke = true
  end
  add_count(id, 'total', b.count)
  add_count(id, 'pending', b.count)
end
write_counts()
call('HSET', run_key, 'sequence', int(sequence + number), 'cursor', cursor_next, 'open', ARGV[5], 'bad', ARGV[6],
  'repeated', ARGV[7], 'complete', complete, 'sites', sites)
for n = 0, math.min(num(ARGV[11], 'bad rows'), room) - 1 do
  call('RPUSH', bad_key, ARGV[12 + n * 2] .. '|' .. ARGV[13 + n * 2])
end
if complete == '1' then
  if pending == 0 and number == 0 then call('HSETNX', K.count, id .. '|settled_at', int(now)) end
  split_end(id)
else
  split_set_due(id, parked, now + ttl)
end
if woke then wake_all() end
return 'done'
