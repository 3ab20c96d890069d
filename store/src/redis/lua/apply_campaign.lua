-- apply_campaign: creates or replaces a campaign. Its message definition was set before it, under its hash.
-- KEYS     1 campaign, 2 campaigns by name
-- ARGV     1 name, 2 spec, 3 definition hash
-- returns  version, changed (0, 1)
-- refuses  nothing

local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local f = redis.call('HMGET', KEYS[1], 'version', 'spec', 'paused')
local version = tonumber(f[1] or '0')
if not version then return redis.error_reply('CORRUPT the version of a campaign') end
if f[2] == ARGV[2] then return { version, 0 } end
redis.call('ZCARD', KEYS[2])
redis.call('HSET', KEYS[1], 'version', string.format('%.0f', version + 1), 'spec', ARGV[2], 'definition', ARGV[3],
  'paused', f[3] or '0', 'applied_at', now)
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return { version + 1, 1 }
