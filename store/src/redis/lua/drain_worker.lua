-- drain_worker: a worker is told to drain at its next claim. A shard that has not seen it yet must know it too.
-- KEYS     the shard's
-- ARGV     1 worker, 2 seen at, 3 slots
-- returns  1 done, 0 it was told before
-- refuses  nothing

local worker = ARGV[1]
local seen_at, slots, drain = string.match(call('HGET', K.worker, worker) or '', '^(%d+)|(%d+)|([01])$')
if drain == '1' then return 0 end
if not seen_at then
  seen_at, slots = int(num(ARGV[2], 'seen at')), int(num(ARGV[3], 'slots'))
  call('ZADD', K.seen, seen_at, worker)
end
call('HSET', K.worker, worker, seen_at .. '|' .. slots .. '|1')
grow()
return 1
