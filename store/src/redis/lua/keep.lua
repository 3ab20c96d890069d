-- keep: audiences and definitions that somebody names, or is about to. A definition may come with its bytes.
-- KEYS     1 kept, then nothing, or the definition
-- ARGV     1 bytes of the definition or '', then the names: A|sha256, D|hash
-- returns  1
-- refuses  nothing

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
for n = 2, #ARGV do redis.call('ZADD', KEYS[1], now, ARGV[n]) end
-- Its key is the hash of its contents, so it may be there already and is never changed.
if KEYS[2] then redis.call('SET', KEYS[2], ARGV[1], 'NX') end
return 1
