-- claim_split: the split that has been due longest, of a run that is not parked.
-- KEYS     the shard's
-- ARGV     1 request, 2 nonce, 3 ttl ms
-- returns  nothing, or run, fence, ttl left ms
-- refuses  nothing

local request, ttl = ARGV[1], num(ARGV[3], 'ttl')
local again = call('HGET', K.split_request, request)
if again then
  local fence = string.match(call('HGET', K.split, again) or '', '^(%S+) ')
  local due = call('ZSCORE', K.splits, again) or call('ZSCORE', K.splits_parked, again)
  if not fence or not due then return {} end
  return { again, fence, math.max(tonumber(due) - now, 0) }
end
local id = call('ZRANGEBYSCORE', K.splits, '-inf', int(now), 'LIMIT', '0', '1')[1]
if not id then return {} end
local fence = next_fence(ARGV[2])
grow()
split_forget_holder(id)
split_set_due(id, false, now + ttl)
call('HSET', K.split, id, fence .. ' ' .. request)
call('HSET', K.split_request, request, id)
call('HSETNX', K.count, id .. '|started_at', int(now))
return { id, fence, ttl }
