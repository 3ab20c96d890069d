-- pin_audience: what was fetched takes the place of the run's audience, and the split lives on.
-- KEYS     the shard's, then: run
-- ARGV     1 run id, 2 fence, 3 the audience, 4 ttl ms
-- returns  done, lost, stopped
-- refuses  a fence that is not the split's; a split that began

local run_key, id, ttl = KEYS[OWN + 1], ARGV[1], num(ARGV[4], 'ttl')
local f = call('HMGET', run_key, 'cursor', 'sequence', 'cancelled', 'error', 'paused')
if not f[1] then return 'lost' end
if f[3] == '1' or f[4] then return 'stopped' end
local held = string.match(call('HGET', K.split, id) or '', '^(%S+) ')
if not held or fences_differ(held, ARGV[2]) then return 'lost' end
if num(f[1], 'cursor') > 0 or num(f[2], 'sequence') > 0 then return 'lost' end
grow()
call('HSET', run_key, 'audience', ARGV[3])
split_set_due(id, f[5] == '1', now + ttl)
return 'done'
