-- reclaim: takes back one lease, if it has expired and nothing holds reclaiming back.
-- KEYS     the shard's, then: batch, its details, its run
-- ARGV     1 batch id, 2 doubt grace ms
-- returns  status (kept, reclaimed, dead: it cannot be read), recipients that became in doubt, 1 if the batch or somebody
--          in it was set aside for ending workers
-- refuses  a lease that has not expired, or any while held after an outage (kept)

-- This recipient ends workers. It keeps the state that says whether it may have been sent.
local function set_aside(b, index)
  change(b, index, nil, function(_, _, r)
    r.code = DEAD_LETTER
    give_up(b, index, r)
  end)
  b.detail[index] = ''
  b.dead[index] = true
  b.dead_new[#b.dead_new + 1] = index
end

-- A leased batch of which workers are not heard again waits for a person. Nobody may be in intent.
local function set_aside_batch(b)
  if b.expired ~= b.entry.expired then b.fields.expired = b.entry.expired end
  commit(b)
  call('ZREM', K.lease, b.id)
  call('HDEL', K.holder, b.id)
  if b.hold.counted > 0 then count_flight(b.entry, -b.hold.counted, true) end
  dead_add(b.id, nil, ENDS_WORKERS, entry_text(b.entry))
  count_place(run.id, 'leased', 'dead')
end

local id, grace = ARGV[1], num(ARGV[2], 'doubt grace')
local hold = hold_of(id, call('HGET', KEYS[OWN + 1], 'q'))
local held_until = num(call('HGET', K.shard, 'hold_until') or '0', 'hold_until')
if not hold or hold.expires_at > now or now < held_until or STOPPED then
  -- The index may be behind, and is not asked about this one again before it is time.
  if hold and hold.noted_at < hold.expires_at then call('ZADD', K.lease, int(hold.expires_at), id) end
  return { 'kept', 0, 0 }
end
local b, wrong
if load_run(string.match(id, '^(.+)%.%d+$') or '', KEYS[OWN + 3]) then
  b, wrong = load_batch(id, KEYS[OWN + 1], KEYS[OWN + 2])
else
  wrong = 'its run is missing'
end
if not b then
  quarantine(id, hold, wrong)
  return { 'dead', 0, 0 }
end
local verdict, index = 'nothing', nil
-- A lease that ended during an outage, or in the time after it, or because the shard went back, says nothing about the
-- batch.
if hold.expires_at > held_until and not hold.is_stale and not run.cancelled then
  local fallen = set_of(b.h.k)
  for at = 0, b.count - 1 do
    if b.st[at + 1] == I then fallen[at] = true end
  end
  b.sus = b.sus or no_suspicion()
  doubts_max = math.huge
  verdict, index = suspicion_expired(b.sus,
    { had_outcome = hold.outcome == 'o', was_heard = hold.sequence > 0, fallen = fallen })
end
suspect(b)
local doubts = doubt_intents(b, grace)
b.entry.expired = '1'
add_count(run.id, 'expired', 1)
if verdict == 'batch' then
  set_aside_batch(b)
else
  if index and index < b.count then set_aside(b, index) end
  put_back(b, 'leased')
end
write_run()
return { 'reclaimed', doubts, (verdict == 'batch' or verdict == 'recipient') and 1 or 0 }
