-- delete_campaign: its runs stay.
-- KEYS     1 campaign, 2 campaigns by name
-- ARGV     1 name
-- returns  1 done, 0 there was none
-- refuses  nothing

redis.call('ZCARD', KEYS[2])
local was = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return was
