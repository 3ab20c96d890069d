-- reclaim: takes back one lease, if it has expired and nothing holds reclaiming back.
-- KEYS     the shard's, then: batch, its details, its run
-- ARGV     1 batch id, 2 doubt grace ms
-- returns  status (kept, reclaimed, dead), recipients that became in doubt
-- refuses  a lease that has not expired, or any while held after an outage (kept)

local id, grace = ARGV[1], num(ARGV[2], 'doubt grace')
local hold = hold_of(id)
local held_until = num(call('HGET', K.shard, 'hold_until') or '0', 'hold_until')
if not hold or hold.expires_at > now or now < held_until or STOPPED then return { 'kept', 0 } end
local b, wrong
if load_run(string.match(id, '^(.+)%.%d+$') or '', KEYS[OWN + 3]) then
  b, wrong = load_batch(id, KEYS[OWN + 1], KEYS[OWN + 2])
else
  wrong = 'its run is missing'
end
if not b then
  quarantine(id, hold, wrong)
  return { 'dead', 0 }
end
suspect(b)
local doubts = doubt_intents(b, grace)
b.entry.expired = '1'
add_count(run.id, 'expired', 1)
put_back(b, 'leased')
write_run()
return { 'reclaimed', doubts }
