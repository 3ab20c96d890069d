-- claim_history: the settled batches that have waited longest for their history to be written, for one caller.
-- KEYS     the shard's
-- ARGV     1 request, 2 ttl ms, 3 batches max
-- returns  how many wait in all, then batch and stamp of each
-- refuses  a caller while another one is at it (gets none)

local request, ttl, most = ARGV[1], num(ARGV[2], 'ttl'), num(ARGV[3], 'batches')
local backlog = call('ZCARD', K.to_retire)
local answer = { backlog }
if backlog == 0 or most == 0 then return answer end
local by, until_ms = unpack(call('HMGET', K.shard, 'history_by', 'history_until'))
if by and by ~= request and num(until_ms, 'history_until') > now then return answer end
call('HSET', K.shard, 'history_by', request, 'history_until', int(now + ttl))
for _, value in ipairs(call('ZRANGE', K.to_retire, 0, int(most - 1), 'WITHSCORES')) do answer[#answer + 1] = value end
return answer
