-- release_split: due again later or, with an error, when the run is resumed.
-- KEYS     the shard's, then: run
-- ARGV     1 run id, 2 fence, 3 delay ms, 4: 1 with an error, 5 its code, 6 message, 7 mend
-- returns  done, lost, stopped
-- refuses  a fence that is not the split's; a cancelled run

local run_key, id, delay = KEYS[OWN + 1], ARGV[1], num(ARGV[3], 'delay')
local f = call('HMGET', run_key, 'lane', 'sites', 'paused', 'cancelled', 'error')
if not f[1] then return 'lost' end
if f[4] == '1' then return 'stopped' end
local held = string.match(call('HGET', K.split, id) or '', '^(%S+) ')
if not held or fences_differ(held, ARGV[2]) then return 'lost' end
grow()
split_end(id)
if ARGV[4] == '1' then
  call('HSET', run_key, 'error', ARGV[5], 'error_message', ARGV[6], 'error_mend', ARGV[7])
  set_parked(id, f[1], f[2] or '', true)
else
  split_set_due(id, f[3] == '1' or f[5] ~= false, now + delay)
end
return 'done'
