-- erase_run: whoever holds the split of a run loses it, and what is stored of its recipients is replaced.
-- KEYS     the shard's, then: run
-- ARGV     1 run id, 2: 1 to replace the audience, 3 it is, 4 it is to be, 5: 1 to replace the open rows, 6 they are, 7 they
--          are to be
-- returns  status (done, changed, no_run), the open rows
-- refuses  what is not as it was looked at

local id, run_key = ARGV[1], KEYS[OWN + 1]
local f = call('HMGET', run_key, 'lane', 'audience', 'open', 'paused', 'cancelled', 'error')
if not f[1] then return { 'no_run', '' } end
local open = f[3] or ''
if ARGV[2] == '1' and f[2] ~= ARGV[3] and f[2] ~= ARGV[4] then return { 'changed', '' } end
if ARGV[5] == '1' and open ~= ARGV[6] and open ~= ARGV[7] then return { 'changed', '' } end
local hold = call('HGET', K.split, id)
grow()
if ARGV[2] == '1' then call('HSET', run_key, 'audience', ARGV[4]) end
if ARGV[5] == '1' then
  open = ARGV[7]
  call('HSET', run_key, 'open', open)
end
if hold then
  split_forget_holder(id)
  split_set_due(id, f[4] == '1' or f[5] == '1' or f[6] ~= false, now)
  wake_all()
end
return { 'done', open }
