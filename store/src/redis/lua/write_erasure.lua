-- write_erasure: the next version of what is known of an erasure.
-- KEYS     1 the erasure, 2 the open ones
-- ARGV     1 id, 2 the version before (0: none), 3 by whom, 4: 1 only if nobody holds it, 5 held for (ms), 6: 1 when there
--          is something left to do, 7 the body
-- returns  status (done, changed), the version it has now
-- refuses  another version than that; one that somebody holds

local f = redis.call('HMGET', KEYS[1], 'version', 'by', 'held_until')
redis.call('ZCARD', KEYS[2])
local version, wanted, hold = tonumber(f[1] or '0'), tonumber(ARGV[2]), tonumber(ARGV[5])
local held_until = tonumber(f[3] or '0')
if not (version and wanted and hold and held_until) then error({ err = 'CORRUPT an erasure' }) end
-- A repeat.
if version == wanted + 1 and f[2] == ARGV[3] then return { 'done', version } end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if version ~= wanted or (ARGV[4] == '1' and held_until > now) then return { 'changed', version } end
redis.call('HSET', KEYS[1], 'version', string.format('%d', version + 1), 'by', ARGV[3],
  'held_until', string.format('%d', now + hold), 'open', ARGV[6], 'body', ARGV[7])
if ARGV[6] == '1' then redis.call('ZADD', KEYS[2], 0, ARGV[1]) else redis.call('ZREM', KEYS[2], ARGV[1]) end
return { 'done', version + 1 }
